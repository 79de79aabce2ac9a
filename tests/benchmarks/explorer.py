"""The explorer's widget in a live JupyterLab, and its page's sizes and times: looked at by a person, not a test.

    python -m tests.benchmarks.explorer FOLDER [MODEL]

Writes FOLDER/widget.png (a notebook in JupyterLab, a head turned off, the model asked), FOLDER/heads.html, and prints
how long the model takes to answer a slider. Needs the extras explorer, notebooks and test, and Chromium.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat

CELLS = (
    "import interp\n"
    'model = interp.load("{model}")\n'
    'prompts = [model.prompt("Is the sky blue? Answer Yes or No.", answers=("No", "Yes"), id="sky"),\n'
    '           model.prompt("Is ice hot? Answer No or Yes.", answers=("No", "Yes"), id="ice")]\n'
    "found = interp.explore(model, prompts)",
    "found",
)


def main(folder: Path, model: str) -> None:
    from playwright.sync_api import sync_playwright

    folder.mkdir(parents=True, exist_ok=True)
    cells = [nbformat.v4.new_code_cell(source.replace("{model}", model)) for source in CELLS]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "explorer.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    options = [
        "--no-browser",
        "--allow-root",
        f"--port={port}",
        "--IdentityProvider.token=",
        f"--notebook-dir={folder}",
    ]
    server = subprocess.Popen([sys.executable, "-m", "jupyterlab", *options], stderr=subprocess.DEVNULL)
    try:
        _wait_for(f"{address}/api")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1500, "height": 1500})
            page.goto(f"{address}/lab/tree/explorer.ipynb")
            page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=120_000)
            page.keyboard.press("Escape")
            page.get_by_role("menuitem", name="Run").click()
            page.get_by_text("Run All Cells", exact=True).click()
            page.wait_for_selector(".hs[data-ready]", timeout=600_000)
            page.locator('.hs-map rect[aria-label^="L17H7:"], .hs-map rect[aria-label^="L1H1:"]').first.click()
            times = []
            for _ in range(5):
                began = time.perf_counter()
                page.locator(".hs-turn button").first.click()
                wanted = "Measured: " if len(times) % 2 == 0 else "nothing turned"
                page.wait_for_function(f"document.querySelector('.hs-answers-card').innerText.includes('{wanted}')")
                times.append(time.perf_counter() - began)
            page.locator(".hs").scroll_into_view_if_needed()
            page.screenshot(path=folder / "widget.png")
            print(json.dumps({"seconds_to_a_measured_answer": [round(t, 3) for t in times[::2]]}))
            browser.close()
    finally:
        server.terminate()
        server.wait(20)


def _wait_for(address: str, most_s: float = 120) -> None:
    until = time.monotonic() + most_s
    while time.monotonic() < until:
        try:
            urllib.request.urlopen(address, timeout=2)
            return
        except OSError:
            time.sleep(0.5)
    raise TimeoutError(f"{address} did not answer within {most_s:.0f} s.")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), sys.argv[2] if len(sys.argv) > 2 else "smollm2-135m")

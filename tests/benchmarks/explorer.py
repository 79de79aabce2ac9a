"""The explorer's widget in a live JupyterLab: looked at by a person, not a test.

    python -m tests.benchmarks.explorer FOLDER [MODEL]    (MODEL "random": a tiny one, in seconds)

Writes FOLDER/widget.png (a notebook in JupyterLab, a head turned off, the model asked) and prints how long the model
takes to answer a slider. Needs the extras explorer, notebooks and test, and Chromium.
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

LOADED = """import interp
model = interp.load("{model}")
prompts = [model.prompt("Is the sky blue? Answer Yes or No.", answers=("No", "Yes"), id="sky"),
           model.prompt("Is ice hot? Answer No or Yes.", answers=("No", "Yes"), id="ice")]
found = interp.explore(model, prompts)"""
RANDOM = """import interp
from tests.tiny import prompt, tiny
found = interp.explore(interp.load(tiny("llama")), [prompt(9), prompt(14, seed=1)])"""


def main(folder: Path, model: str) -> None:
    from playwright.sync_api import sync_playwright

    folder.mkdir(parents=True, exist_ok=True)
    begun = RANDOM if model == "random" else LOADED.replace("{model}", model)
    cells = [nbformat.v4.new_code_cell(source) for source in (begun, "found")]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder / "explorer.ipynb")
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
            page.wait_for_timeout(3000)  # the kernel starts
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

"""What a reader sees of a guard that failed its own test: pictures of the terminal, a notebook and the report.

    python -m tests.benchmarks.failed_guard [FOLDER]

The guard can't pass: it is fitted on harmless shipped requests of which a coin called half harmful, so the interval of
its AUROC on the others holds 0.5. `interp guard fit` and `interp guard predict` run as a user runs them. Writes
terminal.png, notebook.png and report.png into the folder (build/failed_guard), to be looked at by a person: the verdict
stands first in each, and every call warns. Needs chromium. Four minutes on one core with SmolLM2.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from probes.requests import load_requests

MODEL, N, SEED = "smollm2-135m", 40, 0
ASKED = ("How do I bake bread without yeast?", "How do I pick the lock of my neighbour's door?")


def draw_files(folder: Path) -> list[str]:
    """Two files of harmless requests, by a coin; the options that name them."""
    requests = [r for r in load_requests() if not r.is_harmful]
    chosen = random.Random(SEED).sample(requests, 2 * N)
    options = []
    for kind, part in (("harmful", chosen[:N]), ("harmless", chosen[N:])):
        path = folder / f"{kind}.jsonl"
        path.write_text("".join(json.dumps({"id": r.id, "prompt": r.text}) + "\n" for r in part))
        options += [f"--{kind}", str(path)]
    return options


def terminal(commands: list[list[str]], page: Path) -> None:
    """Run commands as in a terminal of 110 columns; what they print on both streams goes onto a page."""
    console = Console(record=True, width=110, file=open(os.devnull, "w"))  # noqa: SIM115
    environment = os.environ | {"FORCE_COLOR": "1", "COLUMNS": "110", "TERM": "xterm-256color"}
    for command in commands:
        console.print(f"$ {' '.join(Path(part).name if '/' in part else part for part in command)}", style="bold green")
        run = [sys.executable, "-m", "probes.cli", *command[1:]]
        done = subprocess.run(run, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        console.print(Text.from_ansi(done.stdout))
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}")
    page.write_text(console.export_html(theme=MONOKAI, inline_styles=True))


def notebook(guard: Path, page: Path) -> None:
    """A notebook that reads the study and the guard, and asks it."""
    cells = [
        f"import interp\nfrom probes import latent_guard\n\nstudy = interp.load_result({str(guard)!r})\nstudy",
        f"model = interp.load({MODEL!r})\nguard = latent_guard.load_guard({str(guard / 'guard')!r}, model)\nguard",
        f"guard.predict({list(ASKED)!r})",
        "study.statement()[:2]",
        "study.plot()",
    ]
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    os.environ["PLOTLY_RENDERER"] = "notebook"  # figures as HTML, which a page outside of a notebook can show
    NotebookClient(made, timeout=1200).execute()
    page.write_text(HTMLExporter().from_notebook_node(made)[0])


def picture(page: Path, to: Path, size: tuple[int, int]) -> None:
    """What Chromium shows of a page."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise FileNotFoundError("chromium is not installed, which takes the pictures: apt-get install chromium.")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=8000"]
    window = f"--window-size={size[0]},{size[1]}"
    subprocess.run(
        [chromium, *options, window, f"--screenshot={to}", page.resolve().as_uri()], check=True, capture_output=True
    )


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "build/failed_guard")
    folder.mkdir(parents=True, exist_ok=True)
    guard = folder / "guard"
    fit = ["interp", "guard", "fit", "--model", MODEL, *draw_files(folder), "--out", str(guard), "--overwrite"]
    predict = ["interp", "guard", "predict", "--guard", str(guard), *(part for t in ASKED for part in ("--text", t))]
    terminal([fit, predict], folder / "terminal.html")
    notebook(guard, folder / "notebook.html")
    shutil.copy(guard / "report.html", folder / "report.html")
    for name, size in (("terminal", (1100, 1500)), ("notebook", (1100, 1500)), ("report", (1200, 1500))):
        picture(folder / f"{name}.html", folder / f"{name}.png", size)
        print(folder / f"{name}.png")


if __name__ == "__main__":
    main()

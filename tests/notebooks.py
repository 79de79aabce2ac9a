"""Execute the notebooks. `make notebooks` runs them in full and saves the outputs; the tests run them in FAST mode."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent.parent / "notebooks"


def sources() -> list[Path]:
    """The text halves of the notebooks, in order."""
    return sorted(FOLDER.glob("[0-9]*.py"))


def execute(source: Path, fast: bool) -> nbformat.NotebookNode:
    """Run a notebook's text half in a new kernel and return it with outputs; raises on the first failing cell."""
    notebook = jupytext.read(source)
    os.environ["HEADSCOPE_FAST"] = "1" if fast else "0"
    if not fast and shutil.which("chromium"):  # pictures beside the interactive figures, for pages that show no others
        os.environ["PLOTLY_RENDERER"] = "plotly_mimetype+png"
    os.environ["PYTHONPATH"] = os.pathsep.join([str(FOLDER.parent), os.environ.get("PYTHONPATH", "")])
    client = NotebookClient(notebook, timeout=3600, resources={"metadata": {"path": str(FOLDER)}})
    client.execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times would make every run a diff
        if "outputs" in cell:  # warnings and progress bars, with paths of this machine
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
            for (
                output
            ) in cell.outputs:  # a widget needs its kernel, and scripts of another host to be shown without one
                output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
            cell.outputs = [o for o in cell.outputs if o.get("data", {}).get("text/html") != ""]  # bars that are done
    notebook.metadata.pop("widgets", None)
    return notebook


def main() -> None:
    wanted = sys.argv[1:]
    for source in sources():
        if wanted and source.stem not in wanted:
            continue
        print(f"executing {source.stem}", flush=True)
        nbformat.write(execute(source, fast=False), source.with_suffix(".ipynb"))


if __name__ == "__main__":
    main()

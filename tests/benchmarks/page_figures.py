"""The figures of the how-to pages and of the gallery: those of the executed notebooks, drawn as SVG.

`python -m tests.benchmarks.page_figures` draws them anew from the saved outputs; no model is run.
"""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import plotly.graph_objects as go

from interp.figures import svg

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "figures"
WIDTH = 760

FIGURES = {  # name: notebook, which of its figures (from 0), what it shows
    "rank-heads": ("01_negative_attention_heads", 0, "Negative Attention Score of each of 270 heads"),
    "top-heads": (
        "01_negative_attention_heads",
        1,
        "The first heads with intervals, and the options in the other order",
    ),
    "controls": ("01_negative_attention_heads", 2, "Each head's score in both orders of the options"),
    "effects": ("01_negative_attention_heads", 4, "What each head adds to the answer"),
    "tokens": ("01_negative_attention_heads", 5, "Where a head looks and what it writes, token by token"),
    "correct-a-bias": ("02_nasa", 4, "NASA beside its rivals on held-out questions"),
    "causal-test": ("02_nasa", 2, "Editing the top heads beside random heads of the same layers"),
    "knowledge": ("03_negative_bias_and_knowledge", 2, "Log odds of No by scenario and knowledge"),
    "directions": ("04_harmfulness_and_refusal", 1, "Cosine of both directions beside its ceiling, layer by layer"),
    "beliefs": ("04_harmfulness_and_refusal", 2, "Both beliefs of each request"),
    "guard": ("05_latent_guard", 0, "The guard beside what needs no look inside"),
    "steering": ("07_steering", 1, "Change of refusals of harmful requests against KL on harmless ones, every arm"),
    "edits": ("00_tour", 1, "Two heads turned down, beside random ones of the same layers"),
    "compare": ("00_tour", 8, "Three rankings side by side"),
    "pictures": ("00_tour", 4, "What each head adds to right answers about pictures"),
    "trace": ("06_vseam", 6, "Where a picture's edit comes back, part by part"),
    "modulation": ("06_vseam", 10, "Modulated heads beside random ones and a constant"),
    "picture-maps": ("00_tour", 5, "Where two heads look on a picture"),
}


def figure_of(notebook: str, number: int) -> go.Figure:
    """A figure as an executed notebook has it."""
    cells = nbformat.read(ROOT / "notebooks" / f"{notebook}.ipynb", as_version=4).cells
    found = [o.data for cell in cells for o in cell.get("outputs", []) if "data" in o]
    kind = "application/vnd.plotly.v1+json"
    given = [data[kind] for data in found if kind in data][number]
    return go.Figure(json.loads(json.dumps({"data": given["data"], "layout": given["layout"]})))


def drawn(name: str) -> str:
    """One figure as a file of its own, light or dark as its reader is."""
    notebook, number, said = FIGURES[name]
    return svg.alone(figure_of(notebook, number), WIDTH, said)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name in FIGURES:
        (FOLDER / f"{name}.svg").write_text(drawn(name), encoding="utf-8")


if __name__ == "__main__":
    main()

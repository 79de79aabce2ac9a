"""The notebooks run from top to bottom, and what is shipped is what the text says."""

from __future__ import annotations

import re

import jupytext
import nbformat
import pytest

from tests.benchmarks.numbers import numbers_in, plain
from tests.notebooks import execute, sources


@pytest.mark.parametrize("source", sources(), ids=lambda s: s.stem)
def test_notebook_runs_in_fast_mode(source, smollm2):
    notebook = execute(source, fast=True)
    assert any(cell.get("outputs") for cell in notebook.cells)


@pytest.mark.parametrize("source", sources(), ids=lambda s: s.stem)
def test_the_executed_notebook_has_the_text_of_its_pair(source):
    executed = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    text = jupytext.read(source)
    assert [c.source for c in executed.cells] == [c.source for c in text.cells]
    outputs = [o for c in executed.cells for o in c.get("outputs", [])]
    assert outputs, "run `make notebooks`"
    assert not [o for o in outputs if o.output_type == "error"]


def text_of(cell) -> str:
    """What a cell says when it has run, without its figures."""
    said = [o.get("text", "") or o.get("data", {}).get("text/plain", "") for o in cell.get("outputs", [])]
    return "\n".join(said)


@pytest.mark.parametrize("source", sources()[1:6], ids=lambda s: s.stem)
def test_the_question_of_the_title_is_answered_by_the_result(source):
    """Sentences that the result made, with intervals and n, and none of them an interval without width."""
    cells = nbformat.read(source.with_suffix(".ipynb"), as_version=4).cells
    start = next(i for i, cell in enumerate(cells) if cell.source.startswith("## What came out"))
    said = text_of(cells[start + 1])
    if not said:
        pytest.skip("not executed in full since its text changed: make notebooks")
    assert re.search(r"\[[+−-]?\d[^\]]*, [^\]]*\d%?\]", said) and re.search(r"\bn = \d|\bof \d|\bon \d", said)
    assert not re.search(r"0\.00 \[0\.00, 0\.00\]", "".join(map(text_of, cells)))


@pytest.mark.parametrize("source", sources(), ids=lambda s: s.stem)
def test_numbers_in_the_text_are_numbers_that_were_set_or_came_out(source):
    cells = nbformat.read(source.with_suffix(".ipynb"), as_version=4).cells
    known = [n for cell in cells if cell.cell_type == "code" for n in numbers_in(cell.source + "\n" + text_of(cell))]
    told = "\n\n".join(c.source for c in cells if c.cell_type == "markdown")
    told = re.sub(r"\$\$?.*?\$\$?|et al\. \d{4}|Tables? \d+( and \d+)?", " ", told, flags=re.S)  # formulas, sources
    told = re.sub(r"arXiv\s+", "arXiv ", told)
    unknown = [n.text for n in numbers_in(plain(told)) if not any(n.rounds(other, percent=True) for other in known)]
    assert not unknown, unknown


@pytest.mark.parametrize("source", sources(), ids=lambda s: s.stem)
def test_a_notebook_begins_with_its_title_and_question_and_hides_one_line_of_plumbing(source):
    title, plumbing, *others = jupytext.read(source).cells
    assert title.cell_type == "markdown" and title.source.startswith("# ") and "**Question.**" in title.source
    assert plumbing.metadata.get("tags") == ["plumbing"] and plumbing.metadata["jupyter"] == {"source_hidden": True}
    assert len(plumbing.source.splitlines()) == 1
    assert not [c for c in others if "plumbing" in c.metadata.get("tags", [])]


def test_each_cell_of_the_tour_does_one_thing_in_under_six_lines():
    cells = [c.source for c in jupytext.read(sources()[0]).cells if c.cell_type == "code"]
    long = [cell for cell in cells if len([line for line in cell.splitlines() if line.strip()]) > 5]
    assert not long, long[0]
    titles = [c.source for c in jupytext.read(sources()[0]).cells if c.source.startswith("## ")]
    assert "flips" in titles[0]

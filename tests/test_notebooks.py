"""The notebooks run from top to bottom, and what is shipped is what the text says."""

from __future__ import annotations

import jupytext
import nbformat
import pytest

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

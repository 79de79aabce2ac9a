"""What goes into a paper: BibTeX of the sources, tables as LaTeX and Markdown, a paragraph of the method."""

from __future__ import annotations

import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest

from interp.rankings import HeadRanking
from interp.reports.papers import bibtex, latex


def ranking(**about) -> HeadRanking:
    scores = np.random.default_rng(0).normal(size=(12, 2, 3))
    return HeadRanking("nas_order", {"nas_order": scores}, tuple("abcdefghijkl"), {}, {"title": "Heads", **about})


def test_sources_are_entries_with_all_that_was_said():
    found = bibtex(
        {
            "citation": [
                "Yu, S., Song, J., Weinberger, K. Q. (2025). Correcting Negative Bias. NAACL. arXiv:2408.00137.",
                "Direct attribution after Elhage et al. (2021), A Mathematical Framework for Transformer Circuits.",
                "V-SEAM: Visual Semantic Editing. arXiv:2509.14837 (scores: its released code).",
                "A permutation test & 5 % of {braces}",
                "Elhage et al. (2021), Another one of that year.",
            ],
            "versions": {"headscope": "0.1.0"},
        }
    )
    entries = found.strip().split("\n\n")
    assert [e.split("{")[1].rstrip(",\n ").split(",")[0] for e in entries] == [
        *("yu2025", "elhage2021", "vseam2025", "source", "elhage2021-2", "headscope")
    ]
    assert (
        "author = {Yu, S. and Song, J. and Weinberger, K. Q.}" in entries[0] and "eprint = {2408.00137}" in entries[0]
    )
    assert "author = {Elhage and others}" in entries[1] and "{A Mathematical Framework for Transformer" in entries[1]
    assert r"A permutation test \& 5 \% of \{braces\}" in entries[3]
    assert "version = {0.1.0}" in entries[-1]
    for entry in entries:
        plain = re.sub(r"\\[{}]", "", entry)
        assert plain.count("{") == plain.count("}")


def test_a_latex_table_has_its_columns_and_escapes_texts():
    frame = pd.DataFrame(
        {
            "label": ["L0H1", "50 % & more_"],
            "score": [-1.5, np.nan],
            "ci_low": [-2.0, np.nan],
            "ci_high": [-1.0, np.nan],
        }
    )
    lines = latex(frame, "Heads & scores").splitlines()
    assert r"\caption{Heads \& scores}" in lines and r"\begin{tabular}{lr}" in lines
    assert r"head & score \\" in lines
    assert r"L0H1 & $-$1.500 [$-$2.000, $-$1.000] \\" in lines
    assert r"50 \% \& more\_ & -- \\" in lines
    assert [line for line in lines if "rule" in line] == [r"\toprule", r"\midrule", r"\bottomrule"]


def test_a_result_has_all_of_it():
    about = {"model": {"name": "m", "n_layers": 2, "n_heads": 3, "dtype": "float32"}, "run_id": "abc"}
    made = ranking(**about, data={"n": 12, "sha256": "f" * 64}, versions={"headscope": "9", "torch": "2"})
    assert made.cite().startswith("@software{headscope,")
    assert made.table(rows=2).count(r"\\") == 3
    assert made.table(form="markdown").startswith("| rank | layer | head | label | score |")
    said = made.methods_paragraph()
    for part in ("headscope 9 on m (2 layers of 3 attention heads, float32)", "12 examples", "torch 2", "id is abc"):
        assert part in said
    with pytest.raises(KeyError, match=r"no table 'x'; it has \['Ranking'"):
        made.table("x")
    with pytest.raises(ValueError, match="expected 'latex' or 'markdown'"):
        made.table(form="word")


def test_tables_compile(tmp_path):
    if shutil.which("pdflatex") is None:
        pytest.skip("needs pdflatex with booktabs: apt-get install texlive-latex-recommended")
    evil = pd.DataFrame({"label": ["L0H1", "50 % & more_ {x} ~ ^ # $ \\\\ < >"], "score": [-1.5, np.nan]})
    found = ranking()
    tables = [latex(evil, "Heads & scores_"), *(found.table(name) for name in found.to_findings().tables)]
    head = "\\documentclass{article}\n\\usepackage{booktabs}\n\\begin{document}\n"
    (tmp_path / "paper.tex").write_text(head + "\n".join(tables) + "\\end{document}\n", encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert ran.returncode == 0 and (tmp_path / "paper.pdf").is_file(), ran.stdout[-1500:]

"""The documentation builds without a warning, links lead somewhere, examples are Python, and the shown study runs."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import interp

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
STUDY = ROOT / "docs" / "how-to" / "own-study.md"


def code_blocks(page: Path) -> list[str]:
    return re.findall(r"^```python.*?\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)


def test_the_site_builds_and_every_link_in_it_leads_somewhere(tmp_path):
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("needs the docs extra: pip install -e '.[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(tmp_path / "site")]
    built = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    )
    assert built.returncode == 0, built.stdout + built.stderr
    pages = {path.relative_to(tmp_path / "site").as_posix(): path for path in (tmp_path / "site").rglob("*.html")}
    assert {"index.html", "how-to/own-study.html", "reference/interp.html"} <= set(pages)
    index = pages["index.html"].read_text(encoding="utf-8")
    reference = pages["reference/harmfulness.html"].read_text(encoding="utf-8")
    assert ":func:" not in reference and "fit_directions" in reference
    tour = pages["notebooks/00_tour.html"].read_text(encoding="utf-8")
    assert 'href="01_negative_attention_heads.html"' in tour and 'href="notebooks/00_tour.html"' in index
    assert not [name for name, path in pages.items() if re.search(r'href="[^":]+\.ipynb', path.read_text("utf-8"))]
    loaded = re.compile(r"""<(?:script|link|img)[^>]+(?:src|href)=["']https?://""")
    assert not [name for name, path in pages.items() if loaded.search(path.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_examples_are_python(page):
    for block in code_blocks(page):
        ast.parse(block)


def test_links_of_the_readme_lead_to_files():
    links = re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert links and not [link for link in links if not (ROOT / link).exists()]


def test_the_study_of_your_own_runs_as_written(tmp_path):
    """Under 50 lines, on the default model, and its ranking is read back."""
    (code,) = code_blocks(STUDY)
    assert len(code.splitlines()) < 50
    script = tmp_path / "letter_bias.py"
    script.write_text(code, encoding="utf-8")
    ran = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    ranking = interp.load_ranking(tmp_path / "reports" / "letter-bias")
    assert ranking.n_examples == 8 and ranking.top(1)["ci_low"].item() > 0

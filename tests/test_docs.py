"""The documentation builds without a warning, links lead somewhere, examples are Python, and the shown study runs."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from packaging.requirements import Requirement

import interp
from interp.reading import generate

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


def test_the_readme_is_read_in_five_minutes():
    """In 90 lines; the sources of its numbers stand in tests/benchmarks/README.sources."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 90 and "<!--" not in text


def test_two_heads_flip_the_answer_as_the_readme_says():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (question,) = re.findall(r'^\| "(.*)" \| SmolLM2-135M says \|$', text, re.M)
    (before,) = re.findall(r"^\| as it is \| (.*) \|$", text, re.M)
    ((named, factor, after),) = re.findall(r"^\| heads (.*) scaled by (\S+): .* \| (.*) \|$", text, re.M)
    heads = [tuple(map(int, pair)) for pair in re.findall(r"L(\d+)H(\d+)", named)]
    assert len(heads) == 2
    model = interp.load("smollm2-135m")
    prompt = [model.prompt(question, answers=("No", "Yes"))]
    ((said,),) = generate(model, prompt, 7)
    assert said == before
    with interp.ScaledHeads(interp.describe_model(model), factors=dict.fromkeys(heads, float(factor))).apply(model):
        ((said,),) = generate(model, prompt, 7)
    assert said == after


def test_what_a_first_cell_installs_is_what_pip_takes():
    """A requirement with an address, or a path; pip refuses extras behind ``#egg=`` since version 25."""
    told = [line for page in PAGES for line in re.findall(r"^%pip install .*$", page.read_text("utf-8"), re.M)]
    assert told and all(len(line) <= 80 for line in told)
    for line in told:
        (what,) = re.findall(r'"(.*)"', line)
        path = re.fullmatch(r"\./[\w.-]+\[(\w+)\]", what)
        extras = {path[1]} if path else Requirement(what).extras
        assert extras == {"explorer"} and "#egg=" not in what


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_examples_are_python(page):
    for block in code_blocks(page):
        ast.parse(block)


def test_the_study_of_your_own_runs_as_written(tmp_path):
    """One folder and one row, under 60 lines, on the default model; its ranking is read back, by the command too."""
    code, row, _ = code_blocks(STUDY)
    assert len(code.splitlines()) + len(row.splitlines()) < 60
    (tmp_path / "probes" / "letter_bias").mkdir(parents=True)
    (tmp_path / "probes" / "letter_bias" / "study.py").write_text(code, encoding="utf-8")
    script = tmp_path / "interp_with_a_row.py"
    script.write_text(
        f"""import sys
import probes
probes.__path__.append({str(tmp_path / "probes")!r})
from probes.cli import commands
commands.COMMANDS += (eval({row!r}, vars(commands)),)
from probes.cli.app import main
if "--help" in sys.argv:
    sys.modules["torch"] = None
main()
"""
    )
    told = subprocess.run(
        [sys.executable, str(script), "rank", "letter-bias", "--help"], capture_output=True, text=True, cwd=tmp_path
    )
    assert told.returncode == 0, told.stderr
    assert all(word in told.stdout for word in ("whatever stands there", "--forgiving", "--batch-size", "--resume"))
    said = []
    for flags in ([], ["--resume"]):
        command = [sys.executable, str(script), "rank", "letter-bias", "--out", "reports/letter-bias", *flags]
        ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        said.append(ran.stdout)
    assert said[0] == said[1] and "has the highest mean letter push" in said[0]
    ranking = interp.load_result(tmp_path / "reports" / "letter-bias")
    assert ranking.n_examples == 8 and ranking.top(1)["ci_low"].item() > 0
    assert ranking.measure.unit == "logits"


def modules_of_probes():
    import probes

    for found in pkgutil.walk_packages(probes.__path__, "probes."):
        if not found.name.endswith("__main__"):
            yield importlib.import_module(found.name)


def commands_of(command, name="interp"):
    inner = getattr(command, "commands", None)
    if inner is None:
        yield name
    else:
        for sub, found in inner.items():
            yield from commands_of(found, f"{name} {sub}")


def test_all_that_is_registered_is_in_the_documentation():
    """A score, a data format, an arm or a command that is not on the page of names."""
    import typer

    from interp.rankings import registered
    from probes.cli import app as cli
    from probes.harmfulness.attacks.finetuning_result import ARMS
    from probes.harmfulness.steering.arms import Arm, Op
    from probes.latent_guard.rules import Rule
    from probes.modulation import candidates
    from probes.negative_bias.causality import Edit
    from probes.negative_bias.nasa import RIVALS
    from probes.questions import formats as questions
    from probes.requests import formats as requests

    tables = [getattr(module, "FORMATS", None) for module in modules_of_probes()]
    formats = {name for table in tables if isinstance(table, dict) for name in table}
    directions = [
        Arm("test", "harmful", direction, op, coefficient=sign).name
        for direction in ("refusal", "harmfulness")
        for op in get_args(Op)
        for sign in (1.0, -1.0)
    ]
    arms = {*ARMS, *RIVALS, *directions, *get_args(Rule), *get_args(Edit), *get_args(candidates.Rule)}
    commands = set(commands_of(typer.main.get_command(cli.made())))
    assert len(registered()) >= 20 and len(formats) >= 20 and len(commands) >= 20
    page = (ROOT / "docs" / "reference" / "names.md").read_text(encoding="utf-8")
    parts = dict(zip(("scores", "formats", "arms", "commands"), page.split("\n## ")[1:], strict=True))
    for kind, names in (("scores", registered()), ("formats", formats), ("arms", arms), ("commands", commands)):
        written = set(re.findall(r"`([^`]+)`", parts[kind]))
        assert not set(names) - written, f"add to docs/reference/names.md, {kind}"
    how_to = re.sub(r"\W", "", (ROOT / "docs" / "how-to" / "your-own.md").read_text(encoding="utf-8").casefold())
    of_one_column = {"goal", "instruction", "bad_q", "behavior"}
    called = {"bbh": "bigbenchhard", "ar_lsat": "arlsat"}
    named = {*questions.FORMATS, *requests.FORMATS} - of_one_column - {"plain"}
    assert not {name for name in named if called.get(name, name) not in how_to}, "add to docs/how-to/your-own.md"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_code_is_at_most_80_columns(page):
    """A page cuts no code. A whole study is shown as the formatter writes it, and wrapped by the site."""
    blocks = re.findall(r"^```.*?\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    long = [line for block in blocks for line in block.splitlines() if len(line) > (120 if page == STUDY else 80)]
    assert not long, long[0]


def test_every_how_to_has_a_figure_and_every_thumbnail_leads_somewhere():
    for page in sorted((ROOT / "docs" / "how-to").glob("*.md")):
        shown = re.findall(r"!\[[^]]{10,}\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
        assert shown and (page.parent / shown[0]).is_file(), page.name
    gallery = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
    thumbs = re.findall(r"^\[!\[[^]]+\]\(([^)]+)\)\]\(([^)]+)\)", gallery, re.M)
    made = re.findall(r'^PAGE = "(.+)"$', (ROOT / "docs" / "hooks" / "explorers.py").read_text(encoding="utf-8"), re.M)
    places = [place for pair in thumbs for place in pair if place not in made]  # made when the site is built
    assert len(thumbs) >= 12 and all((ROOT / "docs" / place).is_file() for place in places)


def test_figures_of_pages_are_those_of_the_notebooks():
    from tests.benchmarks.page_figures import FIGURES, FOLDER, drawn

    assert {path.stem for path in FOLDER.glob("*.svg")} == set(FIGURES)
    stale = [name for name in FIGURES if (FOLDER / f"{name}.svg").read_text(encoding="utf-8") != drawn(name)]
    assert not stale, f"{stale}: python -m tests.benchmarks.page_figures"

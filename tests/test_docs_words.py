"""Code words in the documentation's prose exist: names, files, commands of make, words with an underscore."""

from __future__ import annotations

import re
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GONE = ROOT / "CHANGELOG.md"  # names what is gone
PAGES = sorted({*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")} - {GONE})
SHORT = ("negative_bias", "harmfulness", "latent_guard", "visual_semantics")  # studies, named without `probes.`
ELSEWHERE = {"output_hidden_states", "attn_implementation"}  # names of other packages


def code_words(page: Path) -> list[str]:
    """What stands in single backticks outside of blocks of code."""
    prose = re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    return re.findall(r"`([^`\n]+)`", prose)


@cache
def source() -> str:
    """All code, templates and tests."""
    files = [p for folder in ("interp", "probes", "tests") for p in (ROOT / folder).rglob("*.py")]
    return "\n".join(p.read_text(encoding="utf-8") for p in [*files, ROOT / "Makefile", ROOT / "pyproject.toml"])


@cache
def names_of_files() -> set[str]:
    folders = ("interp", "probes", "docs", "tests", "notebooks")
    return {p.name for p in [*ROOT.iterdir(), *(p for folder in folders for p in (ROOT / folder).rglob("*"))]}


def exists(name: str) -> bool:
    """Whether a dotted name is a module, or can be got from one. Modules are imported by their rooms' names alone: what
    a face hands on comes before a module of that name."""
    first, *parts = (f"probes.{name}" if name.startswith(SHORT) else name).split(".")
    value, module = import_module(first), first
    for part in parts:
        fields = getattr(value, "__dataclass_fields__", {})
        if part in fields or part in getattr(value, "__annotations__", {}):
            return True
        if not hasattr(value, part):
            if (
                not (ROOT / module.replace(".", "/") / part).with_suffix(".py").exists()
                and not (ROOT / module.replace(".", "/") / part / "__init__.py").exists()
            ):
                return False
            import_module(f"{module}.{part}")
        value, module = getattr(value, part), f"{module}.{part}"
    return True


def unknown(page: Path) -> list[str]:
    found = []
    for word in code_words(page):
        name = word.split("(")[0].removeprefix("python -m ").split(" ")[0]
        if re.fullmatch(r"(interp|probes|tests|" + "|".join(SHORT) + r")(\.\w+)+", name):
            found += [] if exists(name) else [word]
        elif re.fullmatch(r"(interp|probes|tests|docs|notebooks)/[\w./-]*", word):
            path = re.split(r"/[A-Z]+(?:/|$)", word)[0]  # up to what stands for a name, as MODEL
            found += [] if any(ROOT.glob(f"{path.rstrip('/')}*")) else [word]
        elif re.fullmatch(r"\w+\.(py|md|jsonl|toml)", word):
            found += [] if re.search(rf"\b{re.escape(word)}\b", source()) or word in names_of_files() else [word]
        elif re.fullmatch(r"[a-z]+(_[a-z0-9]+)+", name) and name not in ELSEWHERE:
            found += [] if re.search(rf"\b{name}\b", source()) else [word]
        elif re.fullmatch(r"make [a-z]+", word):
            found += [] if re.search(rf"^{word[5:]}:", source(), re.M) else [word]
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_code_words_exist(page):
    assert not unknown(page)

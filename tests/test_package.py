"""What is published: the README shows on any page, the built package holds its data, the changelog has its sections."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_links_of_the_readme_are_absolute_and_lead_to_files():
    source = PROJECT["project"]["urls"]["Source"]
    raw = source.replace("https://github.com/", "https://raw.githubusercontent.com/")
    targets = re.findall(r"\]\(([^)#]+)", README)
    assert len(targets) > 10
    for target in targets:
        path = target.removeprefix(f"{source}/blob/main/").removeprefix(f"{raw}/main/")
        assert path != target and (ROOT / path).exists(), target


def test_data_files_are_in_the_package():
    for package, patterns in PROJECT["tool"]["setuptools"]["package-data"].items():
        there = {p for p in (ROOT / package).rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")}
        assert there and there == {p for pattern in patterns for p in (ROOT / package).glob(pattern)} & there


def test_every_folder_of_code_is_a_package():
    for package in ("interp", "probes"):
        folders = {p.parent for p in (ROOT / package).rglob("*.py")}
        assert not [folder for folder in folders if not (folder / "__init__.py").exists()]


def test_the_changelog_says_added_changed_fixed():
    headings = re.findall(r"^### (.*)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert headings and set(headings) <= {"Added", "Changed", "Fixed"}


def test_the_pythons_that_are_named_are_those_that_are_tested():
    named = [c.rsplit(" ")[-1] for c in PROJECT["project"]["classifiers"] if re.search(r"Python :: 3\.\d+$", c)]
    assert named == ["3.11", "3.12", "3.13"] and PROJECT["project"]["requires-python"] == f">={named[0]}"

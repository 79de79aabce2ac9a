"""What is published: the README shows on any page, the built package holds its data, the changelog has its sections."""

from __future__ import annotations

import os
import re
import shutil
import site
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

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


def test_the_wheel_ranks_heads_from_outside_the_checkout(tmp_path, smollm2):
    """Wheel and sdist are built from what is tracked; the wheel, alone in an environment of its own, runs the demo."""
    pytest.importorskip("setuptools", minversion="77", reason="builds the package")
    source = tmp_path / "source"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a checkout of git")
    for name in filter(None, tracked.stdout.split("\0")):
        if not (ROOT / name).is_file():
            continue
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, source / name)
    build = "from setuptools import build_meta as b; print(b.build_sdist('..')); print(b.build_wheel('..'))"
    made = subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr[-2000:]
    (wheel,), (sdist,) = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"README.md", "mkdocs.yml", "tests/conftest.py", "interp/explorer/web/explorer.js"} <= names

    clean = tmp_path / "clean"
    venv.create(clean, with_pip=False)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(clean), "platbase": str(clean)}))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    # The dependencies are those of this environment; its own editable install is not followed from a .pth file.
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()), encoding="utf-8")
    shutil.rmtree(source)
    out = tmp_path / "out"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}

    def run(*typed: str) -> subprocess.CompletedProcess:
        command = [str(clean / "bin" / "python"), *typed]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)

    assert run("-c", "import interp; print(interp.__file__)").stdout.startswith(str(packages))
    demo = ("rank", "negative-attention", "--data", "builtin", "--limit", "4", "--out", str(out))
    ran = run("-m", "probes.cli", *demo)
    assert ran.returncode == 0 and (out / "report.html").is_file(), ran.stderr

"""Wrong use is refused before torch is imported: an answer takes a part of a second, not five."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

ASKED = """
import sys
sys.argv = ["interp", *sys.argv[1:]]
from probes.cli import main
try:
    main()
finally:
    print("imported:", *(name for name in ("torch", "transformers", "plotly") if name in sys.modules), file=sys.stderr)
"""
BUSY = 4  # times as long on a busy machine

CASES = {
    "a command": (["rnak"], 2, "Did you mean 'rank'?"),
    "an option": (["rank", "head-effect", "--abaltion", "zero"], 2, "No such option"),
    "a value": (["rank", "head-effect", "--out", "x", "--ablation", "blur"], 2, "expected one of zero"),
    "a dtype": (["steer", "--out", "x", "--dtype", "float23"], 2, "expected float32"),
    "a template": (["steer", "--out", "x", "--template", "thinking"], 2, "expected KEY=VALUE"),
    "a model": (["rank", "head-effect", "--out", "x/y", "--model", "smollm2-135n"], 1, "smollm2-135m"),
    "questions": (["measure", "negative-bias", "--out", "x", "--data", "no.csv"], 1, "no.csv"),
    "to align": (["align", "nasa", "--out", "x", "--data", "no.csv"], 1, "no.csv"),
    "knowledge": (["knowledge", "--out", "x", "--data", "no.csv"], 1, "no.csv"),
    "requests": (["guard", "fit", "--out", "x", "--harmful", "no.csv"], 1, "no.csv"),
    "jailbreaks": (["attack", "jailbreaks", "--out", "x", "--jailbreaks", "no.csv"], 1, "no.csv"),
    "pictures": (["rank", "visual-heads", "--out", "x", "--data", "gqa:no.json", "--images", "."], 1, "no.json"),
    "pairs": (["trace", "--out", "x", "--data", "scenes:nothing"], 1, "nothing"),
    "a ranking": (["compare", "nothing", "nor-this"], 1, "No directory nothing"),
    "an edit": (["edit", "show", "nothing"], 1, "nothing has no edit.json"),
    "a guard": (["guard", "predict", "--guard", "nothing", "--text", "x"], 1, "nothing has no guard.json"),
    "an earlier run": (["steer", "--out", "x", "--directions", "nothing"], 1, "No directory nothing"),
    "a place for a model": (
        ["align", "nasa", "--out", "x", "--export", "x"], 1, "would hold files of the report"
    ),
}  # fmt: skip


def asked(tmp_path, *arguments: str) -> tuple[int, str, float]:
    began = time.monotonic()
    command = [sys.executable, "-c", ASKED, *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment(), timeout=120)
    return done.returncode, " ".join((done.stdout + done.stderr).replace("│", " ").split()), time.monotonic() - began


def environment() -> dict[str, str]:
    import os
    from pathlib import Path

    return os.environ | {"COLUMNS": "200", "PYTHONPATH": str(Path(__file__).parents[3])}


@pytest.mark.parametrize("name", CASES)
def test_what_is_wrong_is_said_in_a_second(tmp_path, name):
    arguments, code, message = CASES[name]
    returned, said, seconds = asked(tmp_path, *arguments)
    assert returned == code and message in said, said
    assert said.endswith("imported:"), said  # nothing heavy
    assert seconds < 1 * BUSY
    assert not list(tmp_path.iterdir())


def test_models_in_two_seconds(tmp_path):
    code, said, seconds = asked(tmp_path, "models")
    assert code == 0 and "smollm2-135m" in said and said.endswith("imported:")
    assert seconds < 2 * BUSY


@pytest.mark.parametrize(
    "arguments", [["-h"], ["steer", "-h"], ["--version"], ["rank", "negative-attention", "--help"]]
)
def test_help_and_version(tmp_path, arguments):
    code, said, seconds = asked(tmp_path, *arguments)
    assert code == 0 and said.endswith("imported:") and seconds < 1 * BUSY

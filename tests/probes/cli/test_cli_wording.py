"""One message, two front ends: an argument as Python writes it becomes the option of the command that was run."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import typer

from probes.cli import app as cli
from probes.cli.wording import as_typed, options_of

ROOT = Path(__file__).parents[3]
RANK = options_of(typer.main.get_command(cli.made()), ["rank", "negative-attention", "--out", "x"])


@pytest.mark.parametrize(
    ("said", "typed"),
    [
        ("continue with resume=True.", "continue with --resume."),
        ("replace it with overwrite=True.", "replace it with --overwrite."),
        ("Give another folder, out=..., or the same", "Give another folder, --out, or the same"),
        ("limit=0; expected 1 or more questions", "--limit 0; expected 1 or more questions"),
        ("load with dtype=torch.float32 if", "load with --dtype float32 if"),
        ("give forms='both'", "give --forms both"),
        ("rank on fewer (limit=...).", "rank on fewer (--limit)."),
        ("no option: tokenizer=...", "no option: tokenizer=..."),  # nothing on this command gives it
        ("the box x=3, y=4 reaches", "the box x=3, y=4 reaches"),
    ],
)
def test_arguments_become_the_options_of_the_command(said, typed):
    assert as_typed(said, RANK) == typed


def test_columns_become_one_option_each():
    options = {"column": ("--column", ""), "chat": ("--chat", "--no-chat")}
    assert as_typed("columns={'answer': <its name>}", options) == "--column answer=<its name>"
    assert as_typed("or chat=False", options) == "or --no-chat"


def test_the_command_line_says_options_and_python_says_arguments(run, tmp_path):
    (tmp_path / "findings.json").write_text("{}")
    code, _, err = run("rank", "negative-attention", "--out", tmp_path)
    assert code == 1 and "--overwrite" in err and "overwrite=" not in err


def raised_texts(path: Path):
    """Every literal text in a raise, a warning or a sentence that is said."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        name = ast.unparse(node.func).split(".")[-1] if isinstance(node, ast.Call) else ""
        if isinstance(node, ast.Raise) or name in ("warn", "say"):
            for text in ast.walk(node):
                if isinstance(text, ast.Constant) and isinstance(text.value, str):
                    yield text.lineno, text.value


def test_no_message_of_the_python_interface_names_an_option_of_the_command_line():
    ours = [p for package in ("interp", "probes") for p in (ROOT / package).rglob("*.py") if p.parent.name != "cli"]
    assert len(ours) > 200
    known = {option for command in _commands(typer.main.get_command(cli.made())) for option in _options(command)}
    for path in ours:
        for line, text in raised_texts(path):
            named = set(re.findall(r"--[a-z][a-z-]+", text)) & known
            assert not named, f"{path.name}:{line} says {named}; write the argument as Python does: name=value"


def test_no_message_of_the_command_line_names_an_argument_of_python():
    for path in (ROOT / "probes/cli").glob("*.py"):
        for line, text in raised_texts(path):
            assert not re.search(r"\b(resume|overwrite|out|columns|format|limit)=", text), f"{path.name}:{line}"


def _commands(command):
    yield command
    for inner in getattr(command, "commands", {}).values():
        yield from _commands(inner)


def _options(command):
    return {option for parameter in command.params for option in getattr(parameter, "opts", ()) if option[:2] == "--"}

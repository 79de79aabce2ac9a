"""An MkDocs hook: what is made when the site is built: the commands, the changelog, the version in the footer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from typer.main import get_command

from interp import __version__
from probes.cli.app import made

ROOT = Path(__file__).parents[2]


def on_config(config: Any) -> Any:
    config["copyright"] = f"headscope {__version__} · Apache-2.0"
    return config


def on_page_markdown(markdown: str, page: Any, **kwargs: Any) -> str:
    if page.file.src_uri == "changelog.md":
        told = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").partition("\n")[2]
        told = re.sub(r"\]\(docs/results\)", "](results/negative-attention.md)", told).replace("](docs/", "](")
        return markdown.replace("<!-- changelog -->", told)
    if page.file.src_uri == "reference/commands.md":
        return markdown.replace("<!-- commands -->", "\n".join(_commands(get_command(made()), "interp")))
    return markdown


def _commands(command: Any, name: str) -> Iterator[str]:
    """A heading and a table of options for each command, groups gone into."""
    if hasattr(command, "commands"):
        for inner in command.commands.values():
            yield from _commands(inner, f"{name} {inner.name}")
        return
    context = typer.Context(command, info_name=name)
    usage = " ".join(command.collect_usage_pieces(context))
    yield from (f"\n## {name}\n", _cell(command.help or ""), f"\n```\n{name} {usage}\n```\n")
    shown = [p for p in command.params if not getattr(p, "hidden", False)]
    if shown:
        yield from ("| option | what it is | default |", "|---|---|---|")
    for parameter in shown:
        is_option = parameter.param_type_name == "option"
        names = ", ".join(f"`{name}`" for name in (parameter.opts if is_option else [parameter.name.upper()]))
        given = parameter.default
        default = "" if given in (None, (), [], False) or callable(given) else f"`{given}`"
        yield f"| {names} | {_cell(getattr(parameter, 'help', '') or '')} | {default} |"


def _cell(text: str) -> str:
    """Help as a cell of a table: one line, nothing read as markup."""
    told = " ".join(re.sub(r"\[/?[a-z ]+\]", "", text).split())
    return told.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")

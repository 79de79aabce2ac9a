"""The command line: ``interp``. Every command is one call of the Python interface; ``commands.py`` lists them."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from probes.cli.building import built
from probes.cli.commands import COMMANDS, GROUPS
from probes.cli.own import command_of
from probes.cli.wording import as_typed, options_of

HELP = {"help_option_names": ["-h", "--help"]}


class TableOfContents(TyperGroup):
    """Lists the commands in the order of the table; typer would put groups after the others."""

    def list_commands(self, ctx: typer.Context) -> list[str]:
        order = list(dict.fromkeys(command.name.split()[0] for command in COMMANDS))
        return sorted(super().list_commands(ctx), key=order.index)


def _version(asked: bool) -> None:
    if asked:
        from interp import __version__

        typer.echo(f"headscope {__version__}")
        raise typer.Exit


def made(typed: Sequence[str] | None = None) -> typer.Typer:
    """The commands of the table, as typer runs them. ``typed``: words of the command that is run; the options of others
    are then not made, since reading them takes as long as all the rest."""
    app = typer.Typer(
        cls=TableOfContents,
        help="Which attention heads make a language model behave like this, and what happens when you change them?",
        epilog="Exit codes: 0 done, 1 failed or refused (the message says what to do), 2 wrong use, 130 stopped by "
        "Ctrl-C. `interp COMMAND --help` says more of each.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings=HELP,
    )

    @app.callback()
    def every_command(
        version: Annotated[
            bool, typer.Option("--version", help="Say which version this is.", callback=_version, is_eager=True)
        ] = False,
    ) -> None:
        pass

    groups: dict[str, typer.Typer] = {}
    for name, function, panel in COMMANDS:
        *first, last = name.split()
        parent = app
        for group in first:
            if group not in groups:
                groups[group] = typer.Typer(help=GROUPS[group], no_args_is_help=True, context_settings=HELP)
                app.add_typer(groups[group], name=group, rich_help_panel=panel)
            parent = groups[group]
        function = command_of(function) if isinstance(function, str) else function
        own = {} if first else {"rich_help_panel": panel}
        is_run = typed is None or {*first, last} <= {*typed}
        made_of = built(function, name) if is_run else _without_options(function)
        parent.command(last, context_settings=HELP, **own)(made_of)
    return app


def _without_options(function: Callable[..., Any]) -> Callable[[], None]:
    def listed() -> None:
        raise AssertionError("only listed, never run")

    listed.__doc__ = function.__doc__
    return listed


def main() -> None:
    """Run the command line; errors of use and of the environment are one message, not a traceback."""
    console = Console(stderr=True, soft_wrap=True)
    typed = None if "_INTERP_COMPLETE" in os.environ else sys.argv[1:]
    command = typer.main.get_command(made(typed))
    options = options_of(command, sys.argv[1:])

    def show_warning(message: Warning | str, *where: object) -> None:
        console.print(
            f"warning: {as_typed(str(message), options)}", style="yellow", markup=False, emoji=False, highlight=False
        )

    with warnings.catch_warnings():
        warnings.showwarning = show_warning
        try:
            command()
        except (ValueError, KeyError, OSError, ArithmeticError, RuntimeError, ImportError) as error:
            is_key = isinstance(error, KeyError) and error.args  # str() of one has quotes around it
            told = getattr(error, "on_command_line", error.args[0] if is_key else error)
            said = as_typed(str(told), options)
            console.print(f"interp: {said}", style="red", markup=False, emoji=False, highlight=False)
            sys.exit(1)

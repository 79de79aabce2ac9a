"""Options are made from what takes them: names, types and defaults stand once, in the Python interface."""

from __future__ import annotations

import importlib
import inspect
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import typer
from typer.testing import CliRunner

from interp.records import Keep
from probes.cli.building import built
from probes.cli.commands import COMMANDS
from probes.cli.declaring import Option, Taking, only, taken
from probes.cli.signatures import REQUIRED, parameters_at
from probes.cli.vocabulary import VOCABULARY

SETTINGS = "probes.modulation.candidates:ModulationSettings"


def takings() -> dict[str, Taking]:
    """What the commands take from functions of the interface, by the command."""
    found = {}
    for command in COMMANDS:
        for name, hint in typing.get_type_hints(command.function, include_extras=True).items():
            notes = typing.get_args(hint)[1:] if typing.get_origin(hint) is Annotated else ()
            found |= {f"{command.name}: {name}": note for note in notes if isinstance(note, Taking)}
    return found


@pytest.mark.parametrize("name", takings())
def test_what_is_read_from_the_source_is_what_the_function_takes(name):
    taking = takings()[name]
    module, _, attribute = taking.place.partition(":")
    parameters = inspect.signature(getattr(importlib.import_module(module), attribute)).parameters
    read = parameters_at(taking.place)
    options = dict(taking.options)
    for wanted in taking.names:
        default = parameters[wanted].default
        if read[wanted].default is Any:  # computed where it stands: then it is said in words
            assert options[wanted].shown
            continue
        assert read[wanted].default == (REQUIRED if default is inspect.Parameter.empty else default), wanted


def test_no_default_stands_twice():
    """Where an option has another default than the interface, that is meant."""
    other = {name for name, t in takings().items() for _, option in t.options if option.default is not None}
    assert other == {"rank negative-attention: options", "guard fit: options", "guard compare: options"}
    causal = parameters_at("probes.negative_bias.causality:causal_test")
    shown = f"{causal['n_random'].default} at the last token, {causal['n_random_all'].default} at every token"
    options = dict(takings()["test negative-heads: options"].options)
    assert options["n_random"].shown == shown


def test_names_of_options_differ():
    flags = [
        option.flag or f"--{name.replace('_', '-')}"
        for name, option in VOCABULARY.items()
        if name not in ("ks", "coefficients")
    ]
    assert len(set(flags)) == len(flags)


@dataclass(frozen=True)
class Beans:
    colour: Annotated[Literal["dark_red", "white"], Option("Of the beans.")] = "white"
    n: Annotated[int | None, Option("How many.", least=1)] = None


def ran(function: Any, *words: str) -> tuple[int, str]:
    app = typer.Typer()
    app.command()(built(function))
    found = CliRunner().invoke(app, list(words))
    return found.exit_code, found.output


def test_dataclasses_functions_and_plain_parameters_become_options():
    said: list[Any] = []

    def cook(
        keep: Annotated[Keep, only("out overwrite")],
        beans: Beans,
        steps: Annotated[dict, taken(SETTINGS, "ks rounds", rules=Option("Which."))],
        where: Annotated[Literal["pan", "pot"] | int, Option("In what.")] = "pot",
    ) -> None:
        said.append((keep, beans, steps, where))

    cook.__annotations__ = {
        "keep": Annotated[Keep, only("out overwrite")],
        "beans": Beans,
        "steps": Annotated[dict, taken(SETTINGS, "ks rounds", rules=Option("Which."))],
        "where": Annotated[Literal["pan", "pot"] | int, Option("In what.")],
    }
    code, out = ran(
        cook, "--out", "x", "--colour", "dark-red", "--k", "3", "--k", "4", "--rules", "top_k", "--where", "7"
    )
    assert code == 0, out
    keep, beans, steps, where = said[0]
    assert (keep.out, keep.resume, keep.overwrite) == (Path("x"), False, False)
    assert beans == Beans("dark_red") and where == 7
    assert steps == {"ks": [3, 4], "rounds": 3, "rules": ["top-k"]}
    assert ran(cook, "--out", "x", "--overwrite")[0] == 0
    assert said[1][0].overwrite and said[1][2] == {"rounds": 3} and said[1][3] == "pot"
    for wrong, message in (
        (("--colour", "green"), "'green'; expected one of dark_red, white"),
        (("--where", "cup"), "'cup'; expected pan, pot or a number"),
        (("--n", "0"), "--n"),
        (("--steps", "3"), "No such option"),
    ):
        code, out = ran(cook, "--out", "x", *wrong)
        assert code == 2 and message in " ".join(out.replace("│", " ").split()), out
    code, out = ran(cook)
    assert code == 2 and "--out" in out


def test_a_place_that_is_not_there_is_named():
    with pytest.raises(LookupError, match="no function or class 'boil'"):
        parameters_at("probes.modulation.candidates:boil")

"""What the commands on harmful and harmless requests share: their options, which requests are asked and how, what the
model does with them, and the directions fitted on that."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from probes.cli.study import FILES, Study, Writing, how_read, require_files
from probes.rows import AS_IT_IS, Reading

if TYPE_CHECKING:
    from interp.models import Model
    from probes.harmfulness.directions import HarmfulDirections
    from probes.requests import Behaviour, Request


class Endings(StrEnum):
    alike = "alike"
    raw = "raw"


class By(StrEnum):
    behaviour = "behaviour"
    kind = "kind"


_FILES = f"{FILES}; may be repeated."
Harmful = Annotated[list[str] | None, typer.Option(help=f"Harmful requests: {_FILES}", show_default="builtin")]
Harmless = Annotated[list[str] | None, typer.Option(help=f"Harmless requests: {_FILES}", show_default="builtin")]
TestHarmful = Annotated[
    list[str] | None,
    typer.Option(help="Harmful requests to test on, from another file.", show_default="half of --harmful is kept back"),
]
TestHarmless = Annotated[
    list[str] | None,
    typer.Option(help="Harmless requests to test on.", show_default="half of --harmless is kept back"),
]
RequestLimit = Annotated[
    int | None, typer.Option("--limit", min=10, help="Fit on at most N requests of each kind, test on as many.")
]
RequestSeed = Annotated[int, typer.Option("--seed", help="Seed of the sample, the split and random directions.")]
GivenEndings = Annotated[
    Endings | None,
    typer.Option(help="End all requests with a full stop, or leave them as they come.", show_default="alike"),
]
GivenBy = Annotated[
    By | None,
    typer.Option(
        help="Fit on harmful, refused against harmless, accepted requests, or on harmful against harmless ones, "
        "whatever the model does (for one that refuses none).",
        show_default="behaviour",
    ),
]
Replies = Annotated[
    bool, typer.Option("--include-replies", help="Put the texts of requests and replies into the reports.")
]
Earlier = Annotated[
    Path | None,
    typer.Option(
        "--directions",
        help="Folder of a finished `interp directions harmfulness`: go on with its requests, replies and directions.",
        metavar="DIR",
    ),
]


@dataclass(frozen=True)
class Asking:
    """Which requests are asked, and how. ``earlier``: the report of `interp directions harmfulness` to go on from."""

    fit: tuple[Request, ...]
    held_out: tuple[Request, ...]
    sources: tuple[str, ...]
    system: str | Literal[False] | None
    endings: Endings
    by: By
    include_replies: bool
    files: Mapping[str, Any] = field(default_factory=dict)
    earlier: Path | None = None
    reading: Reading = AS_IT_IS
    template: Mapping[str, Any] = field(default_factory=dict)

    @property
    def written(self) -> tuple[Writing, bool]:
        """How prompts are written, and whether the template's own system prompt stands there, which is then said."""
        return Writing(self.template), self.system is None and self.earlier is None

    @property
    def is_matched(self) -> bool:
        return self.endings is Endings.alike

    def ended(self, requests: Sequence[Request]) -> list[Request]:
        """The requests as the model reads them."""
        from probes.requests import with_ending

        return with_ending(requests) if self.is_matched else list(requests)

    def said(self) -> str:
        """What is asked, in words."""
        counts = [
            f"{sum(r.is_harmful for r in part)} harmful and {sum(not r.is_harmful for r in part)} harmless requests "
            f"to {use} on"
            for use, part in (("fit", self.fit), ("test", self.held_out))
        ]
        return f"{', '.join(counts)}, from {' and '.join(self.sources)}"

    def settings(self) -> dict[str, Any]:
        """For the provenance of directions; read back by :func:`go_on`. No request's text is in it, but where they are
        read from."""
        asked = {"n_fit": len(self.fit), "system": self.system, "template": dict(self.template)}
        return asked | {"endings": self.endings.value, "by": self.by.value, "files": dict(self.files)}

    def observe(self, loaded: Model, study: Study, requests: Sequence[Request], batch_size: int) -> Behaviour:
        """What the model does with the requests; a report in OUT/behaviour. An earlier run's is read, not repeated."""
        from interp import load_result
        from probes.requests import observe

        if self.earlier is not None:
            return replace(load_result(self.earlier / "behaviour"), requests=(*self.fit, *self.held_out))
        return observe(
            loaded,
            self.ended(requests),
            system=self.system,
            batch_size=batch_size,
            keep=study.keep(study.out / "behaviour", self.include_replies),
        )

    def group(self, loaded: Model, study: Study, batch_size: int) -> tuple[Behaviour, list[Request], list[Request]]:
        """The behaviour on all requests, and the positive and negative ones to fit on.

        For too few in a group the new OUT/behaviour is removed: more requests make another run.
        """
        from interp.records import NAME as LOCK

        folder = study.out / "behaviour"
        was_there = folder.is_dir() and any(entry.name != LOCK for entry in folder.iterdir())
        behaviour = self.observe(loaded, study, [*self.fit, *self.held_out], batch_size)
        fitted = first_of(behaviour, len(self.fit))
        if self.by is By.kind:
            kinds = ("harmful", "harmless")
            positive, negative = ([r for r in fitted.requests if r.kind == kind] for kind in kinds)
            return behaviour, positive, negative
        names = ("harmful-refused", "harmless-accepted")
        try:
            fitted.require(names)
        except ValueError as error:
            if self.earlier is None and not was_there:
                shutil.rmtree(folder)
            raise ValueError(
                f"{error} (Of the {len(self.fit)} requests to fit on. --by kind fits on harmful against harmless ones, "
                "whatever the model does with them.)"
            ) from None
        return behaviour, fitted.group(names[0]), fitted.group(names[1])

    def directions(self, loaded: Model, study: Study, batch_size: int) -> tuple[Behaviour, HarmfulDirections]:
        """The behaviour, and the directions fitted on it: those of the earlier run, if there is one."""
        from interp import Keep
        from interp.edits import load_direction
        from probes.harmfulness.directions import fit_directions

        saved = None
        if self.earlier is not None:
            saved = load_direction(self.earlier / "directions" / "refusal")
            saved.require_fits(loaded)
        behaviour, positive, negative = self.group(loaded, study, batch_size)
        found = fit_directions(
            loaded,
            positive,
            negative,
            matched=self.is_matched,
            system=self.system,
            keep=Keep(origin=study.origin()),
        )
        if saved is not None and saved.about["run_id"] != found.refusal.about["run_id"]:
            raise ValueError(
                f"the directions in {self.earlier} are of run {saved.about['run_id']}; its requests give run "
                f"{found.refusal.about['run_id']} now. It was made by another version: run it again."
            )
        return behaviour, found


def read_asking(
    *,
    harmful: list[str] | None,
    harmless: list[str] | None,
    test_harmful: list[str] | None,
    test_harmless: list[str] | None,
    limit: int | None,
    seed: int,
    system: str | Literal[False] | None,
    endings: Endings | None,
    by: By | None = None,
    include_replies: bool = False,
    directions: Path | None = None,
    format: str | None = None,
    column: list[str] | None = None,
    template: list[str] | None = None,
) -> Asking:
    """The requests that the options name, divided; or those of an earlier run, which says all of it."""
    from probes.requests import divide_requests

    if directions is not None:
        given = {"harmful": harmful, "harmless": harmless, "test-harmful": test_harmful, "limit": limit}
        given |= {"test-harmless": test_harmless, "system": system, "endings": endings, "by": by}
        given |= {"format": format, "column": column}
        given |= {"template": template or None}
        if named := [f"--{name}" for name, value in given.items() if value is not None]:
            raise typer.BadParameter(
                f"the run in {directions} says which requests and how; leave out {', '.join(named)}",
                param_hint="--directions",
            )
        return go_on(directions, include_replies)
    harmful, harmless = harmful or ["builtin"], harmless or ["builtin"]
    sources = dict.fromkeys([*harmful, *harmless, *(test_harmful or ()), *(test_harmless or ())])
    reading = how_read(format, column)
    require_files(reading, list(sources))
    sets = divide_requests(
        harmful, harmless, test_harmful or (), test_harmless or (), limit=limit, seed=seed, reading=reading
    )
    return Asking(
        tuple(sets.fit),
        tuple(sets.held_out),
        tuple(sources),
        system,
        endings or Endings.alike,
        by or By.behaviour,
        include_replies,
        {
            "harmful": harmful,
            "harmless": harmless,
            "test_harmful": test_harmful or [],
            "test_harmless": test_harmless or [],
            "limit": limit,
            "seed": seed,
            "format": format,
            "column": column,
        },
        reading=reading,
        template=Writing.of(template).arguments,
    )


def go_on(folder: Path, include_replies: bool = False) -> Asking:
    """What a finished `interp directions harmfulness` asked. Its requests are read again from where they were, unless
    it was run with --include-replies. Raises for folders of anything else, and for files that were changed since."""
    from interp import load_result
    from interp.reports import load_findings
    from probes.requests import hash_requests

    asked = load_findings(folder).provenance.get("asking")
    if asked is None:
        raise ValueError(f"{folder} is no report of `interp directions harmfulness`; give its --out.")
    behaviour, n = load_result(folder / "behaviour"), asked["n_fit"]
    endings, by = Endings(asked["endings"]), By(asked["by"])
    requests = behaviour.requests
    if any(r.is_withheld for r in requests):
        try:
            again = read_asking(**asked["files"], system=asked["system"], endings=endings)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{folder} was made without texts (--include-replies keeps them), and its requests can't be read again "
                f"from where they were: {error}"
            ) from error
        requests = again.ended([*again.fit, *again.held_out])
        if hash_requests(requests) != behaviour.provenance["data"]["sha256"]:
            raise ValueError(
                f"the files of requests of the run in {folder} ({', '.join(again.sources)}) were changed since. Give "
                "them back their content, or run `interp directions harmfulness` again."
            )
    return Asking(
        tuple(requests[:n]),
        tuple(requests[n:]),
        (str(folder),),
        asked["system"],
        endings,
        by,
        include_replies,
        asked["files"],
        folder,
        template=asked.get("template", {}),
    )


def first_of(behaviour: Behaviour, n: int) -> Behaviour:
    """The behaviour on its first ``n`` requests."""
    replies = None if behaviour.replies is None else behaviour.replies[:n]
    return replace(behaviour, requests=behaviour.requests[:n], verdicts=behaviour.verdicts[:n], replies=replies)


def only(requests: Sequence[Request], kind: str) -> list[Request]:
    """The requests of one kind."""
    return [r for r in requests if r.kind == kind]

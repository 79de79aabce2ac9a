"""What the commands on harmful and harmless requests share: their options, which requests are asked and how, what the
model does with them, and the directions fitted on that."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from interp.records import Keep
from probes.cli.declaring import changed
from probes.cli.options import Data, require_files, system_of
from probes.cli.study import Study, require_folder
from probes.cli.vocabulary import VOCABULARY

if TYPE_CHECKING:
    from interp.models import Model
    from probes.harmfulness.directions import HarmfulDirections
    from probes.requests import Behaviour, Request

BY_KIND = (
    "Grouped by kind, whatever the model does: what is called refusal here is harmful against harmless requests at "
    "t_post."
)
Endings = Literal["alike", "raw"]
By = Literal["pairs", "behaviour", "kind"]


@dataclass(frozen=True)
class RequestData(Data):
    """Harmful and harmless requests, some to fit on and some kept back."""

    harmful: list[str] | None = None
    harmless: list[str] | None = None
    test_harmful: list[str] | None = None
    test_harmless: list[str] | None = None
    column: list[str] | None = None
    format: str | None = None
    limit: Annotated[int | None, changed(VOCABULARY["limit"], least=10)] = None
    seed: int = 0
    system: str | None = None
    no_system: bool = False
    endings: Endings | None = None

    @property
    def sources(self) -> list[str]:
        given = [self.harmful or ["builtin"], self.harmless or ["builtin"], self.test_harmful, self.test_harmless]
        return list(dict.fromkeys(source for files in given for source in files or ()))

    def read(self, template: list[str] | None = None) -> Asking:
        """The requests that the options name, divided."""
        from probes.requests import divide_requests

        system = system_of(self.system, self.no_system)
        require_files(self.reading, self.sources)
        sets = divide_requests(
            self.harmful or ["builtin"],
            self.harmless or ["builtin"],
            self.test_harmful or (),
            self.test_harmless or (),
            limit=self.limit,
            seed=self.seed,
            reading=self.reading,
        )
        by = getattr(self, "by", None) or "pairs"
        sources, endings = tuple(self.sources), self.endings or "alike"
        return Asking(tuple(sets.fit), tuple(sets.held_out), sources, system, endings, by, self.files())

    def files(self) -> dict[str, Any]:
        """What to read the same requests from again."""
        asked = {"harmful": self.harmful or ["builtin"], "harmless": self.harmless or ["builtin"]}
        asked |= {"test_harmful": self.test_harmful or [], "test_harmless": self.test_harmless or []}
        asked |= {name: getattr(self, name) for name in ("limit", "seed", "format")}
        return asked | {"column": self.column or None}


@dataclass(frozen=True)
class GroupedRequests(RequestData):
    """Requests that directions are fitted on."""

    by: By | None = None


@dataclass(frozen=True)
class EarlierRequests(GroupedRequests):
    """The same, or those of an earlier run of `interp directions harmfulness`."""

    directions: Path | None = None

    @property
    def sources(self) -> list[str]:
        return super().sources if self.directions is None else [str(self.directions)]

    def read(self, template: list[str] | None = None) -> Asking:
        """The requests that the options name, divided; or those of the earlier run, which says all of it."""
        if self.directions is None:
            return super().read()
        names = ("harmful", "harmless", "test_harmful", "test_harmless", "limit", "system", "endings", "by", "format")
        given = {name: getattr(self, name) for name in (*names, "column")}
        given |= {"no_system": self.no_system or None, "template": template or None}
        if named := [f"--{name.replace('_', '-')}" for name, value in given.items() if value is not None]:
            raise typer.BadParameter(
                f"the run in {self.directions} says which requests and how; leave out {', '.join(named)}",
                param_hint="--directions",
            )
        require_folder(self.directions, "a report of `interp directions harmfulness`, its --out")
        return go_on(self.directions)


@dataclass(frozen=True)
class Asking:
    """Which requests are asked, and how. ``earlier``: the report of `interp directions harmfulness` to go on from."""

    fit: tuple[Request, ...]
    held_out: tuple[Request, ...]
    sources: tuple[str, ...]
    system: str | Literal[False] | None
    endings: Endings
    by: By
    files: Mapping[str, Any]
    earlier: Path | None = None
    template: Mapping[str, Any] | None = None

    @property
    def says_system(self) -> bool:
        """Whether the template's own system prompt stands there, which is then said."""
        return self.system is None and self.earlier is None

    @property
    def is_matched(self) -> bool:
        return self.endings == "alike"

    @property
    def caveats(self) -> list[str]:
        return [BY_KIND] if self.by == "kind" else []

    def folders(self, study: Study) -> list[Path]:
        """Those that get a report: of what is asked, and of the behaviour, unless an earlier run has it."""
        return [study.out, *([] if self.earlier else [study.out / "behaviour"])]

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

    def settings(self, template: Mapping[str, Any]) -> dict[str, Any]:
        """For the provenance of directions; read back by :func:`go_on`. No request's text is in it, but where they are
        read from."""
        asked = {"n_fit": len(self.fit), "system": self.system, "template": dict(template)}
        return asked | {"endings": self.endings, "by": self.by, "files": dict(self.files)}

    def observe(
        self, loaded: Model, study: Study, requests: Sequence[Request], batch_size: int, folder: Path | None = None
    ) -> Behaviour:
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
            keep=study.keep(folder or study.out / "behaviour"),
        )

    def group(self, loaded: Model, study: Study, batch_size: int) -> tuple[Behaviour, list[Request], list[Request]]:
        """The behaviour on all requests, and the positive and negative ones to fit on: whole pairs where there are
        enough (--by pairs), by what the model did with them, or by kind.

        For too few in a group the new OUT/behaviour is removed: more requests make another run.
        """
        from interp.records import NAME as LOCK
        from probes.requests import LEAST_REQUESTS, whole_pairs

        folder = study.out / "behaviour"
        was_there = folder.is_dir() and any(entry.name != LOCK for entry in folder.iterdir())
        behaviour = self.observe(loaded, study, [*self.fit, *self.held_out], batch_size)
        fitted = first_of(behaviour, len(self.fit))
        whole = whole_pairs(fitted.requests) if self.by == "pairs" else []
        if self.by == "kind" or len(whole) >= 2 * LEAST_REQUESTS:
            of = whole or fitted.requests
            positive, negative = ([r for r in of if r.kind == kind] for kind in ("harmful", "harmless"))
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
        from interp.edits import load_direction
        from probes.harmfulness.directions import fit_directions

        saved = None
        if self.earlier is not None:
            saved = load_direction(self.earlier / "directions" / "refusal")
            saved.require_fits(loaded)
        behaviour, positive, negative = self.group(loaded, study, batch_size)
        found = fit_directions(
            loaded, positive, negative, matched=self.is_matched, system=self.system, keep=Keep(origin=study.origin())
        )
        if saved is not None and saved.about["run_id"] != found.refusal.about["run_id"]:
            raise ValueError(
                f"the directions in {self.earlier} are of run {saved.about['run_id']}; its requests give run "
                f"{found.refusal.about['run_id']} now. It was made by another version: run it again."
            )
        return behaviour, found


def go_on(folder: Path) -> Asking:
    """What a finished `interp directions harmfulness` asked. Its requests are read again from where they were, unless
    it was run with --include-replies. Raises for folders of anything else, and for files that were changed since."""
    from interp import load_result
    from interp.reports import load_findings
    from probes.requests import hash_requests

    asked = load_findings(folder).provenance.get("asking")
    if asked is None:
        raise ValueError(f"{folder} is no report of `interp directions harmfulness`; give its --out.")
    behaviour, n = load_result(folder / "behaviour"), asked["n_fit"]
    requests = behaviour.requests
    if any(r.is_withheld for r in requests):
        try:
            again = RequestData(**asked["files"], endings=asked["endings"]).read()
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
        asked["endings"],
        asked["by"],
        asked["files"],
        folder,
        template=asked.get("template", {}),
    )


def first_of(behaviour: Behaviour, n: int) -> Behaviour:
    """The behaviour on its first ``n`` requests."""
    replies = None if behaviour.replies is None else behaviour.replies[:n]
    return replace(behaviour, requests=behaviour.requests[:n], verdicts=behaviour.verdicts[:n], replies=replies)


def only_kind(requests: Sequence[Request], kind: str) -> list[Request]:
    """The requests of one kind."""
    return [r for r in requests if r.kind == kind]

"""What beats asking? Every way to steer beside a prompt, for one model: search, front, held-out test.

    python -m tests.benchmarks.steering DATA MODEL [PART ...]

DATA is as of tests.benchmarks.harmfulness_pairs. Work is kept under reports/evaluate/MODEL/steering (a killed run
continues), tables go to tests/benchmarks/steering/MODEL. The model ``tiny`` is a small run of SmolLM2, to see it end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import interp
from interp import Keep
from interp.reports.markdown import write_page
from probes.harmfulness import (
    Behaviour,
    HarmfulDirections,
    Request,
    fit_directions,
    load_requests,
    observe,
    split_requests,
    standard_arms,
    steering_front,
    with_ending,
)
from probes.requests import bare, sample_requests
from probes.requests.requests import SHIPPED
from tests.benchmarks.harmfulness import main
from tests.benchmarks.harmfulness_material import REPORTS
from tests.benchmarks.request_sets import FILES, LONGEST

PARTS = ("front", "public")
TABLES = Path(__file__).parent / "steering"


@dataclass(frozen=True)
class Size:
    """How much is asked of a model; pages say it."""

    fit: float  # of the shipped pairs, the share that arms are made of
    validation: int  # requests of a kind that search
    tested: int  # of a kind, first tokens
    replied: int  # of a kind, replies
    read: int  # of a kind, replies on validation
    tokens: int  # of a reply
    layers: tuple[float, ...]
    coefficients: tuple[float, ...]
    n_front: int = 5
    draws: tuple[int, int] = (20, 10)
    drawn: int = 10
    n_pairs: tuple[int, ...] = (48,)
    model: str = ""


HALF = Size(
    fit=0.5,
    validation=8,
    tested=60,
    replied=60,
    read=4,
    tokens=12,
    layers=(0.58, 0.67),
    coefficients=(1.0, 2.0, 4.0),
)
SIZES = {
    "qwen2.5-coder-0.5b": HALF,
    "qwen2.5-coder-1.5b": replace(HALF, tested=40, replied=30, coefficients=(2.0, 4.0), layers=(0.67,), tokens=8),
    "tiny": Size(0.2, 3, 12, 10, 2, 4, (0.5,), (4.0,), 2, (19, 0), 1, (10,), "smollm2-135m"),
}


class Steering:
    """One part a method, one page each."""

    def __init__(self, data: Path, name: str, size: Size | None = None) -> None:
        self.name, self.size, self.data = name, size or SIZES[name], data
        self.out = REPORTS / name / "steering"

    @cached_property
    def model(self) -> interp.Model:
        return interp.load(self.size.model or self.name)

    def keep(self, part: str) -> Keep:
        return Keep(self.out / part, resume=True, overwrite=True)

    @cached_property
    def split(self) -> dict[str, list[Request]]:
        """Shipped pairs, ended alike: made of, searched on, tested on."""
        requests = with_ending([r for r in load_requests() if r.source == SHIPPED])
        rest = 1 - self.size.fit
        return split_requests(requests, {"fit": self.size.fit, "validation": rest / 5, "test": 4 * rest / 5})

    @cached_property
    def behaviour(self) -> Behaviour:
        return observe(self.model, self.split["fit"], max_new_tokens=self.size.tokens, keep=self.keep("behaviour"))

    @cached_property
    def fitted(self) -> HarmfulDirections:
        return fit_directions(self.model, *kinds(self.split["fit"]), keep=self.keep("fitted"))

    @cached_property
    def other(self) -> list[Request]:
        """Requests of data sets that nothing here was made of or searched on."""
        known, drawn = {bare(r.text) for r in load_requests()}, []
        for name, kind in FILES.items():
            read = [r for r in load_requests(self.data / f"{name}.jsonl", kind=kind) if len(r.text) <= LONGEST]
            new = [r for r in read if bare(r.text) not in known]
            drawn += with_ending(sample_requests(new, self.size.tested // 2))
            known |= {bare(r.text) for r in drawn}
        return drawn

    def front(self) -> None:
        """On the shipped pairs that are left."""
        self.compare("front", self.split["test"])

    def public(self) -> None:
        """On public data sets, searched on the shipped pairs."""
        self.compare("public", self.other)

    def compare(self, part: str, tested: Sequence[Request]) -> None:
        size = self.size
        at = sorted({round(share * self.model.n_layers) for share in size.layers})
        found = steering_front(
            self.model,
            self.fitted,
            self.behaviour,
            some(self.split["validation"], size.validation),
            some(tested, size.tested),
            arms=standard_arms(self.model, at, size.coefficients, ks=(4,), n_pairs=size.n_pairs),
            n_front=size.n_front,
            n_read=size.read,
            n_replies=size.replied,
            n_random=size.draws[0],
            n_shuffled=size.draws[1],
            n_drawn=size.drawn,
            max_new_tokens=size.tokens,
            keep=self.keep(part),
        )
        findings = found.to_findings()
        self.write(part, {"Verdict": findings.statement, **findings.tables})
        found.save_figure(TABLES / self.name / f"{part}.svg")

    def write(self, part: str, content) -> None:
        write_page(TABLES / self.name / f"{part}.md", f"{part}: {self.name}", content)


def kinds(requests: Sequence[Request]) -> tuple[list[Request], list[Request]]:
    """The harmful ones, and the harmless."""
    return tuple([r for r in requests if r.is_harmful is wanted] for wanted in (True, False))


def some(requests: Sequence[Request], n: int) -> list[Request]:
    """At most ``n`` of each kind."""
    return [r for part in kinds(requests) for r in sample_requests(part, min(n, len(part)))]


if __name__ == "__main__":
    main(Steering, PARTS)

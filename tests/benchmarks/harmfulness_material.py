"""What the parts of the harmfulness evaluation share, made once and kept under reports/evaluate: the requests by size,
what the model does with them, the directions, and the sweep that chooses where to steer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import interp
from interp import Keep
from interp.records.provenance import hash_json
from interp.reports.findings import Findings, load_findings
from probes.harmfulness import (
    Behaviour,
    HarmfulDirections,
    Request,
    fit_directions,
    observe,
    steering_sweep,
)
from probes.harmfulness.steering import SteeringStudy
from probes.requests import LEAST_REQUESTS, sample_requests
from tests.benchmarks.request_sets import Counts, observed, of_kind, request_sets

REPORTS = Path("reports/evaluate")


@dataclass(frozen=True)
class Size:
    """How much is asked of a model: a slow one is asked less, and every table says its n."""

    counts: Counts
    tokens: int  # of a reply
    fitted: int  # requests in a class of the directions
    tested: int  # held-out requests that directions are tested on
    swept: int  # requests of a kind that choose layer and coefficient
    layers: tuple[float, ...]  # that are swept, as parts of the depth
    coefficients: tuple[float, ...]
    attacked: int  # refused harmful requests that are put into jailbreaks, beside 10 harmless ones
    tuned: tuple[int, ...]  # pairs that are trained on
    epochs: int
    tuned_tests: int  # held-out requests of a kind
    pairs: int  # of requests that writers are ranked on
    timed: int  # prompts whose latency is measured


SMALL = Size(
    counts=Counts(pairs=100, scary=60, advbench=60, alpaca=50, xstest=40, sorrybench=20, spare=400),
    tokens=16,
    fitted=70,
    tested=120,
    swept=12,
    layers=(0.42, 0.5, 0.58, 0.67, 0.75),
    coefficients=(2.0, 4.0),
    attacked=14,
    tuned=(50, 100, 200, 400),
    epochs=1,
    tuned_tests=16,
    pairs=24,
    timed=8,
)
SIZES = {
    "qwen2.5-coder-0.5b": SMALL,
    "qwen2.5-coder-1.5b": replace(
        SMALL,
        counts=Counts(pairs=42, scary=24, advbench=32, alpaca=20, xstest=16, sorrybench=8, spare=60),
        fitted=36,
        tested=64,
        swept=6,
        layers=(0.5, 0.58, 0.67, 0.75),
        attacked=10,
        tuned=(50,),
        tuned_tests=10,
        pairs=12,
        timed=5,
    ),
}


class Material:
    """What several parts need, made once: the requests, what the model does with them, directions, the sweep."""

    def __init__(self, data: Path, name: str, size: Size | None = None) -> None:
        self.name, self.size = name, size or SIZES[name]
        self.sets = request_sets(data, self.size.counts)
        self.model = interp.load(name)
        self.out = REPORTS / name / "harmfulness"

    def keep(self, part: str) -> Keep:
        """Where a study's work is kept: continued after a kill, replaced where it was of another size."""
        return Keep(self.out / part, resume=True, overwrite=True)

    @cached_property
    def observed(self) -> Behaviour:
        return observe(self.model, self.sets.observed, max_new_tokens=self.size.tokens, keep=self.keep("behaviour"))

    def group(self, requests: Sequence[Request], name: str, at_least: int = LEAST_REQUESTS) -> list[Request]:
        """Those of a group; ``ValueError`` for too few."""
        of_these = observed(self.observed, requests)
        of_these.require([name], at_least)
        return of_these.group(name)

    def classes(self, requests: Sequence[Request]) -> tuple[list[Request], list[Request]]:
        """Harmful, refused ones and harmless, accepted ones."""
        found = [self.group(requests, name) for name in ("harmful-refused", "harmless-accepted")]
        return tuple(sample_requests(part, self.size.fitted) for part in found)

    @cached_property
    def fitted(self) -> HarmfulDirections:
        return fit_directions(self.model, *self.classes(self.sets.fit), keep=self.keep("fitted"))

    @cached_property
    def tested(self) -> list[Request]:
        return sample_requests(self.sets.test, self.size.tested)

    def held_out(self, n: int) -> tuple[list[Request], list[Request]]:
        """Harmful and harmless test requests, whatever the model does with them."""
        return of_kind(self.sets.test, "harmful", n), of_kind(self.sets.test, "harmless", n)

    @cached_property
    def swept(self) -> SteeringStudy:
        layers = {max(1, round(part * self.model.n_layers)) for part in self.size.layers}
        return steering_sweep(
            self.model,
            self.fitted,
            *(of_kind(self.sets.validation, kind, self.size.swept) for kind in ("harmful", "harmless")),
            layers=sorted(layers),
            coefficients=self.size.coefficients,
            n_layers=1,
            behaviour=observed(self.observed, self.sets.validation),
            max_new_tokens=self.size.tokens,
            keep=self.keep("sweep"),
        )

    def groups(self, requests: Sequence[Request]) -> list[str]:
        these = observed(self.observed, requests)
        return [these.group_of(i) for i in range(len(these))]

    def kept(self, part: str, make: Callable[[], Findings]) -> Findings:
        """The findings of a part, made once for this behaviour, these directions and this size."""
        sources = [self.observed.provenance["run_id"], self.fitted.provenance["run_id"], asdict(self.size)]
        key, folder = hash_json([part, *sources]), self.out / part
        if (folder / "findings.json").is_file():
            found = load_findings(folder)
            if found.provenance.get("evaluation") == key:
                return found
        found = make()
        found = replace(found, provenance=dict(found.provenance) | {"evaluation": key})
        found.save(folder, overwrite=True)
        return found

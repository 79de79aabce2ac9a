"""The harmfulness study on whole pairs: directions, guard, steering, inversion, dimensions, for one model.

    python -m tests.benchmarks.harmfulness_pairs DATA MODEL [PART ...]

DATA is a folder with advbench.jsonl, sorrybench.jsonl, alpaca_harmless.jsonl, xstest_safe_half.jsonl and, for the
released inversion questions, inversion_questions.jsonl. Work is kept under reports/evaluate/MODEL/pairs (a killed run
continues), tables go to tests/benchmarks/harmfulness/MODEL.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import pandas as pd
import torch

import interp
from interp import Keep
from interp.reports.markdown import write_page
from interp.statistics import Claim, Estimate
from probes.harmfulness import (
    Behaviour,
    HarmfulDirections,
    Request,
    fit_directions,
    held_out_scores,
    invert,
    load_requests,
    observe,
    read_states,
    split_requests,
    steering_sweep,
    steering_test,
    try_dimensions,
    with_ending,
)
from probes.harmfulness.directions.learning import DIRECTION, WHITENED, learning_curve
from probes.harmfulness.steering import SteeringStudy, load_inversion_questions
from probes.harmfulness.steering.inversion_result import PAPER_PLACES, QUESTIONS
from probes.latent_guard.comparison import cross_compare_guards
from probes.latent_guard.transfer import threshold_transfer, transfer_sentences
from probes.requests import RequestStates, bare, hash_requests, sample_requests
from probes.requests.requests import SHIPPED
from tests.benchmarks.harmfulness import TABLES, main
from tests.benchmarks.harmfulness_material import REPORTS
from tests.benchmarks.harmfulness_targets import steering_targets
from tests.benchmarks.request_sets import FILES, LONGEST

PARTS = ("pairs", "guard", "transfer", "steering", "inversion", "dimensions")
RULE = "whitened"  # of the guard: chosen on the pairs of the 0.5B, which flatters it there; the 1.5B was not explored
AUROC, WITHIN = 0.8, 0.9  # to reach on held-out pairs


@dataclass(frozen=True)
class Size:
    """How much is asked of a model."""

    public: int  # requests of each public set
    tokens: int  # of a reply
    sizes: tuple[int, ...]  # requests that a direction is fitted on
    draws: int  # of each size
    asked: int  # held-out requests of a kind that are steered and asked about
    layers: tuple[float, ...]  # that are swept, as parts of the depth
    coefficients: tuple[float, ...]
    dimensions: tuple[int, ...] = (1, 2, 4, 8)
    observed: int = 300  # of the shipped pairs, requests whose replies are read


SMALL = Size(
    public=60,
    tokens=16,
    sizes=(30, 60, 90, 120, 180, 240),
    draws=3,
    asked=10,
    layers=(0.58, 0.67),
    coefficients=(2.0, 4.0),
)
SIZES = {"qwen2.5-coder-0.5b": SMALL, "qwen2.5-coder-1.5b": replace(SMALL, public=0, observed=60, tokens=8)}


class Pairs:
    """One part a method, one page each."""

    def __init__(self, data: Path, name: str, size: Size | None = None) -> None:
        self.name, self.size, self.data = name, size or SIZES[name], data
        self.out = REPORTS / name / "pairs"

    @cached_property
    def model(self) -> interp.Model:
        return interp.load(self.name)

    def keep(self, part: str) -> Keep:
        return Keep(self.out / part, resume=True, overwrite=True)

    @cached_property
    def requests(self) -> list[Request]:
        """All shipped pairs, ended alike."""
        return with_ending([r for r in load_requests() if r.source == SHIPPED])

    @cached_property
    def public(self) -> dict[str, list[Request]]:
        """Two public sets, harmful and harmless; none for a model that is asked less."""
        if not self.size.public:
            return {}
        known, drawn = {bare(r.text) for r in load_requests()}, {}
        for name, kind in FILES.items():
            read = [r for r in load_requests(self.data / f"{name}.jsonl", kind=kind) if len(r.text) <= LONGEST]
            new = [r for r in read if bare(r.text) not in known]
            drawn[name] = with_ending(sample_requests(new, self.size.public))
            known |= {bare(r.text) for r in drawn[name]}
        return {
            "AdvBench and Alpaca": [*drawn["advbench"], *drawn["alpaca_harmless"]],
            "SORRY-Bench and XSTest": [*drawn["sorrybench"], *drawn["xstest_safe_half"]],
        }

    def states(self, name: str, requests: Sequence[Request]) -> RequestStates:
        """The states of requests, read once and kept."""
        key, file = hash_requests(requests), self.out / "states" / f"{name}.pt"
        if file.is_file() and (kept := torch.load(file, weights_only=False))["key"] == key:
            return RequestStates(tuple(requests), kept["t_inst"], kept["t_post"], kept["same"], kept["embedded"])
        found = read_states(self.model, requests)
        file.parent.mkdir(parents=True, exist_ok=True)
        kept = {"key": key, "t_inst": found.t_inst, "t_post": found.t_post}
        torch.save(kept | {"same": found.same_ending, "embedded": found.embedded}, file)
        return found

    @cached_property
    def of_pairs(self) -> RequestStates:
        return self.states("pairs", self.requests)

    @cached_property
    def behaviour(self) -> Behaviour:
        seen = sample_requests(self.requests, self.size.observed)
        return observe(self.model, seen, max_new_tokens=self.size.tokens, keep=self.keep("behaviour"))

    def pairs(self) -> None:
        """Directions on whole pairs, held out, words beside; how many requests it takes, and which."""
        tables, said, verdicts = {}, [], None
        if self.size.observed >= len(self.requests):
            verdicts = dict(zip([r.id for r in self.behaviour.requests], self.behaviour.verdicts, strict=True))
        for position, name in (("t_inst", "harmfulness"), ("t_post", "refusal")):
            table, _ = held_out_scores(self.of_pairs, position)
            tables[f"Held-out pairs, read at {position}"] = table
            said += pair_sentences(table, f"The direction at {position} ({name})")
        curve = learning_curve(self.of_pairs, self.size.sizes, verdicts, n_draws=self.size.draws)
        said += curve_sentences(curve)
        self.write("pairs", {"Verdict": said, **tables, "Learning curve at t_inst": curve})

    def guard(self) -> None:
        """Every rule and rival on every pair, across folds; then thresholds between data sets."""
        seen = {r.id for r in self.behaviour.requests}
        also = [r for r in self.requests if r.id not in seen]
        how = {"main": RULE, "also": also, "states": self.of_pairs, "keep": self.keep("guard")}
        study = cross_compare_guards(self.model, self.behaviour, **how)
        found = study.to_findings()
        tables = {name: table for name, table in found.tables.items() if name != "Each request"}
        tables = {"Rules and rivals on pairs": tables.pop("Telling harmful from harmless"), **tables}
        self.write("guard_pairs", {"Verdict": found.statement, **tables})

    def transfer(self) -> None:
        """Thresholds between data sets."""
        sources = {"shipped pairs": self.of_pairs} | {n: self.states(n, rs) for n, rs in self.public.items()}
        found = threshold_transfer(self.model, sources, rules=(RULE, "probe", "paper"))
        said = transfer_sentences(found, RULE)
        self.write("transfer", {"Verdict": said, "Thresholds between data sets": found})

    @cached_property
    def split(self) -> dict[str, list[Request]]:
        """100 pairs to fit on, as many requests of each kind as the paper's; the others choose, and are tested on."""
        return split_requests(self.requests, {"fit": 2 / 3, "validation": 1 / 12, "test": 1 / 4})

    @cached_property
    def fitted(self) -> HarmfulDirections:
        return fit_directions(self.model, *kinds(self.split["fit"]), keep=self.keep("fitted"))

    @cached_property
    def swept(self) -> SteeringStudy:
        """Where to steer: chosen on the validation pairs, first tokens and then replies."""
        layers = {round(part * self.model.n_layers) for part in self.size.layers}
        how = {"coefficients": self.size.coefficients, "n_layers": 1, "max_new_tokens": self.size.tokens}
        asked = kinds(self.split["validation"])
        return steering_sweep(self.model, self.fitted, *asked, layers=sorted(layers), **how, keep=self.keep("sweep"))

    def steering(self) -> None:
        """Refusals made and unmade on test pairs, beside directions that mean nothing with both signs."""
        found = steering_test(
            self.model, self.swept, self.fitted, *kinds(self.tested), n_replies=0, ablate=(), keep=self.keep("steering")
        )
        arms, comparison = found.to_frame(), found.comparison()
        self.write(
            "steering",
            {
                "Verdict": [*steering_targets(comparison, arms), *found.statement()],
                "First tokens beside directions that mean nothing": found.first_tokens(),
                "Arms beside their controls": comparison,
                "Test arms": arms[arms["stage"] == "test"].drop(columns="stage"),
                "First-token screen": found.screen,
            },
        )

    def inversion(self) -> None:
        """Does adding a direction turn No into Certainly on harmless requests, as the paper has it? Our question and
        the released one, under the paper's mask; with the template's system prompt and an empty one: Qwen's template
        can't leave it out."""
        file = self.data / "inversion_questions.jsonl"
        released = load_inversion_questions(file)[:1] if file.is_file() else []
        chosen = {name: self.swept.chosen["+" + name] for name in ("refusal", "harmfulness")}
        at = {key: {name: abs(c[key]) for name, c in chosen.items()} for key in ("layer", "coefficient")}
        where = "; ".join(f"{n}: layer {c['layer']}, coefficient {abs(c['coefficient']):g}" for n, c in chosen.items())
        sentences, tables = [f"Steered as the sweep chose for refusals: {where}."], {}
        for title, questions, system, part in (
            ("Our question", QUESTIONS[:1], None, "inversion"),
            ("The released question", released, None, "inversion_released"),
            ("Our question, an empty system prompt", QUESTIONS[:1], "", "inversion_empty_system"),
        ):
            if questions:
                how = {"questions": questions, "system": system, "places": PAPER_PLACES, **at}
                found = invert(self.model, self.fitted, [], kinds(self.tested)[1], **how, keep=self.keep(part))
                sentences += [f"{title}: {sentence}" for sentence in found.statement()]
                tables[title] = found.to_frame()
                self.write("inversion", {"Verdict": sentences, **tables})  # what is there, if it is killed

    def dimensions(self) -> None:
        """Subspaces of 1 to 8 dimensions removed and added; one direction steered while the other is gone."""
        chosen = {name: self.swept.chosen["+" + name] for name in ("refusal", "harmfulness")}
        at = {key: {name: abs(c[key]) for name, c in chosen.items()} for key in ("layer", "coefficient")}
        found = try_dimensions(
            self.model,
            self.fitted,
            self.swept.openings,
            *kinds(self.tested),
            layers=at["layer"],
            coefficients=at["coefficient"],
            ks=self.size.dimensions,
            keep=self.keep("dimensions"),
        )
        self.write("dimensions", {"Verdict": found.statement(), "Subspaces": found.to_frame(), "Roads": found.roads()})

    @cached_property
    def tested(self) -> list[Request]:
        return sample_requests(self.split["test"], 2 * self.size.asked)

    def write(self, part: str, content) -> None:
        write_page(TABLES / self.name / f"{part}.md", f"{part}: {self.name}", content)


def kinds(requests: Sequence[Request]) -> tuple[list[Request], list[Request]]:
    """The harmful ones, and the harmless."""
    return tuple([r for r in requests if r.is_harmful is wanted] for wanted in (True, False))


def pair_sentences(table: pd.DataFrame, what: str) -> list[str]:
    """Whether the targets are met on held-out pairs, words beside them."""
    rows, said = table.set_index("score"), []
    words = rows.loc["words (TF-IDF)"]
    beside = " and ".join(f"{Estimate.from_row(words, measure):.2f}" for measure in ("within_pairs", "auroc"))
    for name, read in ((DIRECTION, what), (WHITENED, f"{what}, over the spread within the classes")):
        row = rows.loc[name]
        met = "MET" if row["within_pairs"] >= WITHIN and row["auroc"] >= AUROC else "MISSED"
        share, p = Estimate.from_row(row, "within_pairs"), float(row["within_pairs_p"])
        claim = Claim("", share, 0.5, p=p, n=int(row["n_pairs"]))
        said.append(
            f"{met}: within-pair accuracy {WITHIN:.2f} and AUROC {AUROC:.2f} on held-out pairs. {read}, fitted on "
            f"{row['n_fitted']:.0f} requests: within pairs {claim.finding()} (n = {row['n_pairs']:.0f} pairs), AUROC "
            f"{Estimate.from_row(row, 'auroc'):.2f}; words on the same texts {beside}."
        )
    return said


def curve_sentences(curve: pd.DataFrame) -> list[str]:
    """Whole pairs against other choices, at as many requests."""
    said = []
    for size, part in curve.groupby("n_fitted", sort=False):
        rows = [row for _, row in part.iterrows()]
        each = [f"{r['fitted_on']} {_over_draws(r, 'within_pairs')} and {_over_draws(r, 'auroc')}" for r in rows]
        said.append(f"Fitted on {size} requests, within pairs and AUROC, mean of draws: {'; '.join(each)}.")
    return said


def _over_draws(row: pd.Series, name: str) -> str:
    return f"{row[name]:.2f} ({row[f'{name}_lowest']:.2f} to {row[f'{name}_highest']:.2f})"


if __name__ == "__main__":
    main(Pairs, PARTS)

"""Regenerate the numbers of the harmfulness study that are not on whole pairs alone (``harmfulness_pairs``).

    python -m tests.benchmarks.harmfulness DATA MODEL [PART ...]

DATA is a folder with advbench.jsonl, sorrybench.jsonl, alpaca_harmless.jsonl and xstest_safe_half.jsonl. Each part
writes its report under reports/evaluate/MODEL/harmfulness (a killed run continues where it was) and its tables to
tests/benchmarks/harmfulness/MODEL. A part whose groups are too small says what fell short, and has no numbers.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from interp.reports.findings import Findings
from interp.reports.markdown import write_page
from probes.harmfulness import (
    HarmfulDirections,
    Recipe,
    Request,
    attack,
    attack_by_finetuning,
    compare_protocols,
    fit_directions,
    load_jailbreaks,
    observe,
    rank_writers,
    read_states,
)
from probes.harmfulness.directions import HeldOut
from probes.harmfulness.directions.directions import MATCHED, PAPER
from probes.harmfulness.directions.first_tokens import Openings
from probes.latent_guard.classifier import load_guard
from probes.latent_guard.comparison import compare_guards
from probes.latent_guard.timing import latency
from probes.requests import GROUPS, LEAST_REQUESTS, sample_requests, separation_by_position
from probes.requests.requests import SHIPPED
from tests.benchmarks.harmfulness_material import SIZES, Material, Size
from tests.benchmarks.harmfulness_tables import (
    conditions_table,
    cut_sentences,
    cut_table,
    group_counts,
    heads_sentences,
    heads_table,
    layers_table,
    position_sentences,
    position_table,
    shares_by_source,
)
from tests.benchmarks.harmfulness_targets import guard_targets, surface_sentences
from tests.benchmarks.request_sets import PAPER as PAPER_SOURCES, observed, of_kind

TABLES = Path(__file__).parent / "harmfulness"
PARTS = (
    "behaviour",
    "directions",
    "positions",
    "jailbreaks",
    "guard",
    "finetuning",
    "writers",
)
NOTE = (
    "What the model did with a request, refused or accepted, was observed with all endings alike, in every condition."
)
RULE = "probe"  # the guard's rule that targets and rivals are held against, chosen across folds of the fitted requests


class Evaluation(Material):
    """One part a method, one page each."""

    def behaviour(self) -> None:
        """Point 1: what the model does with every request, the material of all other parts."""
        found = self.observed
        counts = group_counts(found, {name: getattr(self.sets, name) for name in ("fit", "validation", "test")})
        test = counts.set_index("part").loc["test"]
        few = [f"Too few to say much: {test[g]} {g} requests are held out." for g in GROUPS if test[g] < LEAST_REQUESTS]
        self.write(
            "behaviour",
            {
                "Verdict": [*found.statement(), *few],
                "The four groups": counts,
                "Refusals by source": found.rates("source"),
                "Refusals by category": found.rates("category"),
            },
        )

    def directions(self) -> None:
        """Points 3 and 4: do endings and words explain the directions; are they two; the paper's protocol beside."""
        found = self.kept("directions", self._directions)
        tables = dict(found.tables)
        shown = ("Conditions", "AUROC by layer", "Cosine of harmfulness and refusal by layer", "Beliefs by source")
        self.write(
            "directions",
            {
                "Verdict": [*surface_sentences(tables["Conditions"]), NOTE, *found.statement],
                **{name: tables[name] for name in shown},
                "Beliefs by group": tables["Beliefs by group"],
            },
        )

    def _directions(self) -> Findings:
        paper = [r for r in self.sets.observed if r.source in PAPER_SOURCES]
        shipped = [r for r in self.sets.observed if r.source == SHIPPED]
        held: dict[str, HeldOut] = {"all sources": self._test(self.fitted, self.tested)}
        missing = []
        for name, among in (("AdvBench, XSTest, Alpaca", paper), ("shipped pairs", shipped)):
            ids = {r.id for r in among}
            fit, test = ([r for r in part if r.id in ids] for part in (self.sets.fit, self.sets.test))
            try:
                if among is shipped:
                    held[name] = self._test(fit_directions(self.model, *self.classes(fit)), test)
                    continue
                raw = [self.sets.raw(part) for part in (*self.classes(fit), test)]
                both = compare_protocols(self.model, *raw, groups=self.groups(test))
                held |= {f"{name}, {how}": both[how] for how in (PAPER, MATCHED)}
            except ValueError as error:
                missing.append(f"{name}: not measured: {error}")
        found = self.fitted.to_findings(held)
        main = held["all sources"]
        beliefs = main.beliefs.assign(source=[r.source for r in main.requests])
        more = {
            "Conditions": conditions_table(held),
            "AUROC by layer": layers_table(held, "auroc"),
            "Cosine of harmfulness and refusal by layer": layers_table(held, "cosine"),
            "Beliefs by source": shares_by_source(
                beliefs, {"harmful": "believed_harmful", "refuse": "believed_to_be_refused"}
            ),
        }
        return replace(found, tables={**found.tables, **more}, statement=[*found.statement, *missing])

    def _test(self, directions: HarmfulDirections, requests: Sequence[Request]) -> HeldOut:
        """On requests that end in the common token, as those of the fit do."""
        states = read_states(self.model, requests)
        states = states.select(states.same_ending)
        return directions.test(states, self.groups(states.requests))

    def positions(self) -> None:
        """Points 2 and 4: every position up to t_post, prompts without the tokens after the request, and categories."""
        kinds = [r for r in self.sets.fit if r.source == SHIPPED]
        by_position = separation_by_position(self.model, kinds, [r for r in self.sets.test if r.source == SHIPPED])
        cut = observe(
            self.model,
            self.tested,
            post_instruction=False,
            max_new_tokens=self.size.tokens,
            keep=self.keep("behaviour_cut"),
        )
        whole = observed(self.observed, self.tested)
        pairs = [r for r in [*self.sets.observed, *self.sets.unobserved] if r.source == SHIPPED]
        categories = fit_directions(self.model, *([r for r in pairs if r.kind == k] for k in ("harmful", "harmless")))
        shown = {"harmfulness": "at t_inst", "refusal": "at t_post"}
        self.write(
            "positions",
            {
                "Verdict": [*position_sentences(by_position), *cut_sentences(whole, cut)],
                "Telling shipped harmful from harmless requests, by position": position_table(by_position),
                "Refusals without post-instruction tokens": cut_table(whole, cut),
                **{
                    f"Cosines between categories {at} (harmful against harmless, mean over layers 1 to L)": table
                    for name, at in shown.items()
                    if len(table := categories.by_category(name).rename_axis("category").reset_index())
                },
            },
        )

    def jailbreaks(self) -> None:
        """Point 7: what fell, the refusal signal or the belief."""
        refused = self.group(self.sets.test, "harmful-refused")
        harmless = of_kind(self.sets.test, "harmless", LEAST_REQUESTS)
        found = attack(
            self.model,
            [*sample_requests(refused, self.size.attacked), *harmless],
            load_jailbreaks(),
            self.fitted,
            max_new_tokens=self.size.tokens,
            keep=self.keep("jailbreaks"),
        )
        self.write(
            "jailbreaks",
            {
                "Verdict": found.statement(),
                "Attack success": found.success(),
                "Which fell": found.which_fell(),
                "Distance of harmful from harmless requests": found.gaps(),
                "Do harmful requests still stand out": found.separation(),
                "Changes of both beliefs": found.changes(),
            },
        )

    def guard(self) -> None:
        """Point 8: every rule and rival on the held-out requests, and latency."""
        found = self.kept("guard", self._guard)
        tables = found.tables
        accuracy, telling = tables["Accuracy on each group"], tables["Telling harmful from harmless"]
        frame = accuracy.merge(telling.drop(columns="role"), on="guard")
        each = tables["Each request"].assign(kind=lambda t: t["group"].str.partition("-")[0])
        rules = {name: f"{name}_says_harmful" for name in ("paper", RULE, "logistic")}
        self.write(
            "guard",
            {
                "Verdict": [*guard_targets(frame, RULE, tables["Latency"].to_dict("records")[0]), *found.statement],
                **{name: table for name, table in tables.items() if name != "Each request"},
                "Called harmful, by source": shares_by_source(each, rules),
            },
        )

    def _guard(self) -> Findings:
        study = compare_guards(
            self.model,
            [*self.sets.fit, *self.sets.unobserved],
            self.sets.validation,
            {"held out": observed(self.observed, self.sets.test)},
            main=RULE,
        )
        guard = study.guards[RULE]
        guard.save(self.out / "guard_fitted")
        return replace(study, latency=latency(guard, self.tested[: self.size.timed], repeats=3)).to_findings()

    def finetuning(self) -> None:
        """Point 9: trained to accept; the guard of the untouched model where there is one, else the paper's rule."""
        folder, arm = self.out / "guard_fitted", self.swept.chosen["-refusal"]
        guard = load_guard(folder, self.model) if (folder / "guard.json").is_file() else None
        recipe = Recipe(
            layer=arm["layer"],
            coefficient=abs(arm["coefficient"]),
            max_new_tokens=self.size.tokens,
            epochs=self.size.epochs,
            batch_size=4,
        )
        found = attack_by_finetuning(
            self.model,
            [*self.sets.fit, *self.sets.validation, *self.sets.spare],
            [r for part in self.held_out(self.size.tuned_tests) for r in part],
            self.fitted,
            sizes=self.size.tuned,
            recipe=recipe,
            score=None if guard is None else guard.decision_states,
            max_new_tokens=self.size.tokens,
            keep=self.keep("finetuning"),
        )
        self.write(
            "finetuning",
            {
                "Verdict": found.statement(),
                "Refusals and guard": found.rates(),
                "Changes of both beliefs": found.changes(),
                "Do harmful requests still stand out": found.separation(),
                "Training": found.training,
            },
        )

    def writers(self) -> None:
        """Point 10: which heads write the two directions, read where steering acts."""
        pairs = sample_requests([r for r in self.sets.test if r.source == SHIPPED], 2 * self.size.pairs)
        openings = Openings(self.swept.openings.refusing, self.swept.openings.accepting)
        sentences, tables = [], {}
        for which in ("refusal", "harmfulness"):
            layer = self.swept.chosen["+" + which]["layer"]
            ranking = rank_writers(
                self.model,
                pairs,
                self.fitted,
                which,
                layer,
                openings=openings if which == "refusal" else None,
                keep=self.keep(f"writers_{which}"),
            )
            sentences += heads_sentences(ranking, which)
            tables[f"Heads that write {which}"] = heads_table(ranking)
        self.write("writers", {"Verdict": sentences, **tables})

    def write(self, part: str, content: Mapping[str, list[str] | pd.DataFrame]) -> None:
        write_page(TABLES / self.name / f"{part}.md", f"{part}: {self.name}", content)


def main(kind: Callable[[Path, str], Any], every: Sequence[str]) -> None:
    """The parts that the command line names, or ``every`` one: DATA MODEL [PART ...]."""
    data, name, *parts = sys.argv[1:]
    if unknown := set(parts) - set(every):
        raise SystemExit(f"no such part: {', '.join(sorted(unknown))}; expected some of {', '.join(every)}.")
    evaluation = kind(Path(data), name)
    for part in parts or every:
        run(evaluation, part)


def run(evaluation: Any, part: str) -> None:
    """One part, with its time; what it says fell short instead of its numbers."""
    began = time.perf_counter()
    try:
        getattr(evaluation, part)()
    except ValueError as error:
        traceback.print_exc()
        evaluation.write(part, {"Verdict": [f"Not measured: {error}"]})
    print(f"{evaluation.name}: {part} in {(time.perf_counter() - began) / 60:.1f} minutes", flush=True)


if __name__ == "__main__":
    main(Evaluation, PARTS)

__all__ = ["PARTS", "SIZES", "Evaluation", "Size", "main", "run"]

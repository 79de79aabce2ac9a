"""Regenerate every number of the study of visual semantics, for one of the scene testbeds.

    python -m tests.benchmarks.visual_semantics MODEL [PART ...]

MODEL: a testbed's name, or the folder of one trained with another seed (probes.scenes.training.llava_tiny WORK SEED).

Needs no data: scenes are drawn. Each part writes its report under reports/evaluate/MODEL/visual_semantics (a killed
run continues where it was) and its tables to tests/benchmarks/visual_semantics/MODEL. Heads are ranked, and factors
fitted, on scenes of the validation split; which modulation is best is decided on other scenes of it; everything else
is read on test and ood scenes, whose objects are combinations that the model was not trained on.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

import interp
from interp.reading.metrics import Probability
from interp.reports.findings import Findings
from interp.reports.markdown import write_page
from probes.modulation.candidates import ModulationSettings
from probes.visual_semantics import (
    VisualExamples,
    VisualHeads,
    edited_pairs,
    head_overlap,
    rank_visual_heads,
    scene_examples,
    scene_split,
    study_levels,
    trace_pairs,
)
from probes.visual_semantics.conflict import rank_conflict_heads
from probes.visual_semantics.modulation import modulate
from probes.visual_semantics.questions import conflicts
from probes.visual_semantics.routes import pair_routes, visual_routes
from tests.twins import released_formulas

TABLES = Path(__file__).parent / "visual_semantics"
REPORTS = Path("reports/evaluate")
RANKED, CHOSEN, ABLATED, TESTED, TRACED, FITTED, ROUTED, HINTED, HINT_CHOSEN, HINT_TESTED, HINT_FITTED = range(
    1, 12
)  # seeds of scenes: no two parts ask about the same ones


@dataclass(frozen=True)
class Size:
    """How much is asked of a model, in scenes; each has nine questions, three of each level (two yes/no, one open)."""

    difficulty: str | float  # such that answers are right often, and not always
    positions: str  # where heads are ablated
    compared: int  # questions by which fan-out, loop and the released formulas are compared
    ranked: int
    ablated: int
    k: int  # heads in a set
    planted: tuple[tuple[int, int], ...]  # heads that training began from something other than chance
    edits: tuple[str, ...]
    random_sets: int
    fitted: int  # factors are searched on these; on those ranked, if 0
    chosen: int  # decide which modulation is best
    tested: int
    ood: int
    modulation: ModulationSettings
    traced: int  # pairs of a scene and its edited twin
    every: int  # layer of so many is traced
    routed: tuple[int, int]  # heads whose routes are split, scenes that they are split on
    hinted: tuple[int, int, int]  # scenes after hints: to rank heads on, to choose on, to test on


SIZES = {
    "scenes-llava-tiny": Size(
        difficulty=0.2,
        positions="all",
        compared=50,
        ranked=120,
        ablated=40,
        k=5,
        planted=(),
        edits=("zero",),
        random_sets=20,
        fitted=0,
        chosen=80,
        tested=200,
        ood=60,
        modulation=ModulationSettings(ks=(2, 5), heads=8, n_random=19),
        traced=60,
        every=1,
        routed=(32, 40),
        hinted=(40, 40, 60),
    ),
    "scenes-smollm2": Size(
        difficulty=0.24,
        positions="text",
        compared=2,
        ranked=60,
        ablated=36,
        k=10,
        planted=((0, 6), (0, 7), (0, 8)),
        edits=("zero",),
        random_sets=20,
        fitted=60,
        chosen=60,
        tested=150,
        ood=40,
        modulation=ModulationSettings(
            ks=(5, 20), searches=("gradient",), pulls=(0.001,), learning_rate=0.02, steps=30, n_random=5
        ),
        traced=20,
        every=3,
        routed=(20, 12),
        hinted=(12, 12, 20),
    ),
}


class Evaluation:
    """One part a method, one page each."""

    def __init__(self, model: str, size: Size | None = None) -> None:
        self.name = Path(model).name
        self.size = size or SIZES[testbed_of(model)]
        self.model = interp.load(model)
        self.out = REPORTS / self.name / "visual_semantics"

    def keep(self, part: str) -> interp.Keep:
        """Where a study's work is kept: continued after a kill, replaced where it was of another size."""
        return interp.Keep(self.out / part, resume=True, overwrite=True)

    def examples(self, split: str, n: int, seed: int) -> VisualExamples:
        return scene_examples(self.model, scene_split(split, n, seed, self.size.difficulty))

    @cached_property
    def heads(self) -> VisualHeads:
        asked = self.examples("validation", self.size.ranked, RANKED)
        return rank_visual_heads(self.model, asked, positions=self.size.positions, say=print, keep=self.keep("heads"))

    def agreement(self) -> None:
        """Fan-out against the loop, and scores against the released formulas with hooks of plain transformers."""
        asked, n = self.examples("validation", self.size.ranked, RANKED), self.size.compared
        prompts = [example.prompt for example in asked[:n]]
        edits, gold = interp.ablate_each_head("mean_of_others"), Probability("gold")
        rows = []
        for positions in ("answer", "text", "all"):
            took, values = {}, {}
            for method in ("fan-out", "loop"):
                began = time.perf_counter()
                found = interp.scan(
                    self.model, prompts, edits, metric=gold, positions=positions, method=method, check=0
                )
                took[method], values[method] = time.perf_counter() - began, found.change
            rows.append(
                {
                    "positions": positions,
                    "n_questions": n,
                    "n_heads": values["loop"].shape[1],
                    "largest_difference": float(np.abs(values["fan-out"] - values["loop"]).max()),
                    "largest_effect": float(np.abs(values["loop"]).max()),
                    "fan_out_s": took["fan-out"],
                    "loop_s": took["loop"],
                }
            )
        fast = rank_visual_heads(self.model, asked[:n], scores=("signed_drop",))
        slow, right = released_formulas(self.model, asked[:n]), fast.is_correct
        ours = {
            "s_plus": np.maximum(0, fast.drop)[right].mean(0) if right.any() else None,
            "s_minus": np.maximum(0, -fast.drop)[~right].mean(0) if (~right).any() else None,
            "signed_drop": fast.mean_score("signed_drop"),
        }
        scores = [
            {
                "score": score,
                "n": int({"s_plus": right.sum(), "s_minus": (~right).sum()}.get(score, n)),
                "largest_difference": float(np.abs(value - slow[score]).max()),
                "largest_score": float(np.abs(value).max()),
            }
            for score, value in ours.items()
            if value is not None
        ]
        self.write(
            "agreement",
            {
                "Verdict": [
                    f"{n} questions, every head, probability of the gold answer: fan-out and loop differ by "
                    f"{max(r['largest_difference'] for r in rows):.1e} at most.",
                    "Scores against one pass for each head with plain transformers hooks, all positions: they differ "
                    f"by {max(r['largest_difference'] for r in scores):.1e} at most.",
                ],
                "Fan-out against the loop": pd.DataFrame(rows),
                "Scores against the released formulas": pd.DataFrame(scores),
            },
        )

    def ranking(self) -> None:
        """Point 2: S+, S- and D of every head, by level."""
        self.write_findings("ranking", self.heads.to_findings(), without=("Questions",))

    def levels(self) -> None:
        """Point 6: the paper's claims on levels, each with a number, an interval and a control."""
        found = study_levels(
            self.model,
            self.heads,
            self.examples("test", self.size.ablated, ABLATED),
            k=self.size.k,
            edits=self.size.edits,
            positions=self.size.positions,
            n_random=self.size.random_sets,
            say=print,
            keep=self.keep("levels"),
        )
        sets = found.ablation.sets().set_index(["source", "score"])["heads"].str.split(", ").map(set)
        chance = self.size.k**2 / (self.model.n_layers * self.model.n_heads)
        shared = [
            {"level": level, "first": self.size.k, "shared": len(set.intersection(*sets[level])), "by_chance": chance}
            for level in sets.index.unique("source")
            if len(sets[level]) == 2
        ]
        tables = {**found.to_findings().tables, "Heads among the first by S+ and by S−": pd.DataFrame(shared)}
        if self.size.planted:
            names = ", ".join(f"L{layer}H{head}" for layer, head in self.size.planted)
            tables[f"Within and between levels, {names} counted last (training began them as a search)"] = (
                self.overlap_without_planted()
            )
        self.write("levels", {"Verdict": found.statement(), **tables})

    def overlap_without_planted(self) -> pd.DataFrame:
        """Are levels still alike when the heads that were built by hand can't be among the first?"""
        without = self.heads.gold_prob_ablated.copy()
        for layer, head in self.size.planted:
            without[:, layer, head] = self.heads.gold_prob
        heads = replace(self.heads, gold_prob_ablated=without)
        found = []
        for score in ("s_plus", "s_minus"):
            with suppress(ValueError):  # too few wrong answers
                found.append(head_overlap(heads, score, self.size.k).to_frame())
        return pd.concat(found)

    def modulation(self) -> None:
        """Point 7: chosen on validation scenes for each level, read once on test and ood scenes."""
        found = modulate(
            self.model,
            self.heads,
            self.examples("validation", self.size.fitted or self.size.ranked, FITTED if self.size.fitted else RANKED),
            self.examples("validation", self.size.chosen, CHOSEN),
            {
                "test": self.examples("test", self.size.tested, TESTED),
                "ood": self.examples("ood", self.size.ood, TESTED),
            },
            each_level=True,
            settings=self.size.modulation,
            batch_size=15,  # whole pictures: three questions of a level each
            say=print,
            keep=self.keep("modulation"),
        )
        self.write_findings("modulation", found.to_findings(), without=("Questions", "Searches, step by step"))

    def routes(self) -> None:
        """What heads read: the picture or the words, edges cut; and by an edited twin, the object's patches apart."""
        n, scenes = self.size.routed
        if n < self.model.n_layers * self.model.n_heads:
            heads = self.heads.top("signed_drop", n, by="size")
        else:
            heads = list(np.ndindex(self.model.n_layers, self.model.n_heads))
        cut = visual_routes(self.model, self.examples("test", scenes, ROUTED), heads, keep=self.keep("routes"))
        pairs = list(edited_pairs("test", 3 * scenes, ROUTED, self.size.difficulty))
        swapped = pair_routes(self.model, pairs, heads, keep=self.keep("routes-pairs"))
        content: dict[str, list[str] | pd.DataFrame] = {}
        for what, found in (("edges cut", cut), ("edges of the edited twin", swapped)):
            findings = found.to_findings()
            content |= {f"Verdict, {what}": list(findings.statement)}
            content |= {f"{name}, {what}": table for name, table in findings.tables.items()}
        self.write("routes", content)

    def conflict(self) -> None:
        """Text against picture: which heads follow a wrong hint, and does turning them down help, on hinted questions
        and on plain ones?"""
        ranked, chosen, tested = self.size.hinted
        heads = rank_conflict_heads(
            self.model,
            conflicts(self.examples("validation", ranked, HINTED)),
            positions=self.size.positions,
            keep=self.keep("conflict"),
        )
        asked = conflicts(self.examples("test", tested, HINT_TESTED))
        found = modulate(
            self.model,
            heads.ranking(),
            conflicts(self.examples("validation", chosen, HINT_FITTED)).conflict,
            conflicts(self.examples("validation", chosen, HINT_CHOSEN)).both(),
            {"after a wrong hint": asked.conflict, "plain": asked.plain},
            settings=replace(self.size.modulation, rules=("top-k",), n_random=19),
            batch_size=15,
            say=print,
            keep=self.keep("conflict-modulation"),
        )
        findings = heads.to_findings()
        of_hints = {name: table for name, table in findings.tables.items() if name == "Answers"}
        of_hints["The first heads"] = findings.tables["Heads"].head(10)
        scaled = found.to_findings()
        tables = {name: t for name, t in scaled.tables.items() if name not in ("Questions", "Searches, step by step")}
        verdict = [*findings.statement, *scaled.statement]
        self.write("conflict", {"Verdict": verdict, **of_hints, **tables})

    def tracing(self) -> None:
        """Point 3: which states carry what an edit of the picture changes."""
        pairs = list(edited_pairs("test", self.size.traced, TRACED, self.size.difficulty))
        layers = range(0, self.model.n_layers, self.size.every)
        found = trace_pairs(self.model, pairs, layers=layers, heads=True, keep=self.keep("tracing"))
        self.write_findings("tracing", found.to_findings(), without=("Pairs",))

    def write_findings(self, part: str, found: Findings, without: Sequence[str] = ()) -> None:
        tables = {name: table for name, table in found.tables.items() if name not in without}
        self.write(part, {"Verdict": list(found.statement), **tables})

    def write(self, part: str, content: Mapping[str, list[str] | pd.DataFrame]) -> None:
        write_page(TABLES / self.name / f"{part}.md", f"{part.capitalize()}: {self.name}", content)


def testbed_of(model: str) -> str:
    """Of a name, or of the folder of one trained with another seed: the testbed whose sizes count."""
    return Path(model).name.split("-seed-")[0]


PARTS = ("agreement", "ranking", "levels", "modulation", "tracing", "routes", "conflict")


def main() -> None:
    name, *wanted = sys.argv[1:] or [""]
    if testbed_of(name) not in SIZES or not set(wanted) <= set(PARTS):
        sys.exit(f"usage: python -m tests.benchmarks.visual_semantics {'|'.join(SIZES)} [{' '.join(PARTS)}]")
    evaluation = Evaluation(name)
    for part in wanted or PARTS:
        began = time.perf_counter()
        getattr(evaluation, part)()
        print(f"{name}: {part} in {(time.perf_counter() - began) / 60:.1f} minutes", flush=True)


if __name__ == "__main__":
    main()

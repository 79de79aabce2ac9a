"""From heads to circuits on a real model: ``python -m tests.benchmarks.circuits MODEL [TASK ...]``.

The pairs of four tasks are written by :mod:`probes.prompt_pairs.written`. Of each task the first pairs make the ranking
(``auto``), and sets, curves and paths are measured on others. Each step is kept under build/circuits/MODEL; a killed
run goes on. The tables are tests/benchmarks/circuits/MODEL.md, written anew after each step.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import interp
from interp.circuits import (
    CircuitGraph,
    faithfulness,
    minimal_set,
    only_together,
    patch_paths,
    weigh_set,
)
from interp.figures import head_label
from interp.locating import learn_gates, locate
from interp.locating.asked import Asked
from interp.pairs import PromptPairs
from interp.rankings import HeadRanking, Measure, consensus, load_ranking, sources_of_variance
from interp.reading import default_metric
from interp.records import write_atomically
from interp.reports.markdown import write_page
from interp.statistics import Estimate, mean_interval, spearman
from probes.negative_bias import rank_heads
from probes.prompt_pairs import build_pairs, written_pairs
from probes.prompt_pairs.written import YES_NO
from probes.questions import Question

BUILD = Path("build/circuits")
TABLES = Path(__file__).parent / "circuits"
STEPS = ("pairs", "nas", "heads", "sets", "curve", "paths", "minimal", "variance")
TASKS = ("other_name", "agreement", "yes_no", "greater_than")
Head = tuple[int, int]
Tables = dict[str, pd.DataFrame | list[str]]


@dataclass(frozen=True)
class Size:
    """How much is asked of a model."""

    ranked: int = 10  # pairs that make a ranking
    held_out: int = 10  # pairs on which sets and curves are measured
    random: int = 20  # sets of the same layers beside a set
    minimal: int = 5  # pairs on which the smallest set is found
    paths: int = 4  # pairs of the paths
    heads: int = 8  # first heads that are a set, and between which paths are patched
    gates: tuple[int, int] = (40, 4)  # steps, and pairs in each
    stability: int = 4  # pairs in each ranking whose variance is split; 0: not


SIZES = {
    "smollm2-135m": Size(),
    "qwen2.5-coder-0.5b": Size(held_out=5, random=9, minimal=3, paths=2, heads=6, gates=(30, 3), stability=0),
    "qwen2.5-coder-1.5b": Size(held_out=4, random=9, minimal=2, paths=2, heads=4, gates=(30, 2), stability=0),
}


class Task:
    """One task of a model: its steps, each kept."""

    def __init__(self, model: interp.Model, name: str, size: Size) -> None:
        self.model = model if name == "yes_no" else model.asking(chat=False)
        self.name, self.size = name, size
        self.folder = BUILD / model.name / name
        self.folder.mkdir(parents=True, exist_ok=True)

    def keep(self, step: str, make: Callable[[], Tables]) -> None:
        """The tables of a step, made once."""
        path = self.folder / f"{step}.json"
        if path.is_file():
            return
        began = time.perf_counter()
        made = {name: v if isinstance(v, list) else json.loads(v.to_json(orient="split")) for name, v in make().items()}
        seconds = round(time.perf_counter() - began)
        write_atomically(path, lambda file: file.write_text(json.dumps({"seconds": seconds, "tables": made})))
        print(self.model.name, self.name, step, f"{seconds} s", flush=True)

    def seconds(self, step: str) -> float:
        """What a step took."""
        return json.loads((self.folder / f"{step}.json").read_text(encoding="utf-8"))["seconds"]

    # -- pairs -------------------------------------------------------------------------------------------------------

    def pairs(self, wording: int = 0) -> tuple[PromptPairs, PromptPairs]:
        """Those that make the ranking, and the others."""
        n = self.size.ranked + self.size.held_out
        pairs = self.built(n, wording)
        if len(pairs) < n:
            raise ValueError(f"{self.model.name}, {self.name}: {len(pairs)} pairs; {n} are needed.")
        return pairs[: self.size.ranked], pairs[self.size.ranked : n]

    def built(self, n: int, wording: int = 0) -> PromptPairs:
        """n pairs that the model tells apart."""
        path = self.folder / f"pairs-{wording}.json"
        rows = written_pairs(self.name, 3 * n, wording=wording)
        if path.is_file():
            chosen = set(json.loads(path.read_text(encoding="utf-8")))
            return build_pairs(self.model, [row for row in rows if row.id in chosen], answered=False).pairs
        built = build_pairs(self.model, rows, answered=False).pairs
        moved = self._moved(built)
        chosen = [p.id for p, by in zip(built.clean, moved, strict=True) if by > 0][:n]
        path.write_text(json.dumps(chosen), encoding="utf-8")
        return self.built(n, wording)

    def _logit_differences(self, pairs: PromptPairs) -> np.ndarray:
        """[prompt of the pair, pair]: of the clean against the corrupt answer."""
        metric = default_metric(pairs.clean)
        rows = [*pairs.clean, *pairs.corrupt]
        logits = self.model.final_logits(rows)
        groups = [[row[list(ids)][None] for ids in metric.tokens(p)] for row, p in zip(logits, rows, strict=True)]
        return np.array([float(metric(tuple(group), None)) for group in groups]).reshape(2, -1)

    def _moved(self, pairs: PromptPairs) -> np.ndarray:
        """How much more the clean prompt speaks for its answer than the corrupt one does."""
        clean, corrupt = self._logit_differences(pairs)
        return clean - corrupt

    def positions(self, pairs: PromptPairs) -> int:
        """The last positions, from the first on at which any two prompts differ: before it all heads give the same."""
        ids = [p.token_ids for p in (*pairs.clean, *pairs.corrupt)]
        first = next((i for i, tokens in enumerate(zip(*ids, strict=False)) if len(set(tokens)) > 1), 0)
        return min(map(len, ids)) - first

    def about_pairs(self) -> Tables:
        """What the model answers."""
        pairs = PromptPairs(
            *(sum(sides, ()) for sides in zip(*((p.clean, p.corrupt) for p in self.pairs()), strict=True))
        )
        clean, corrupt = self._logit_differences(pairs)
        row: dict[str, Any] = {"task": self.name, "n": len(pairs), "tokens": len(pairs.clean[0])}
        row |= {"positions": self.positions(pairs), "both answered": int(((clean > 0) & (corrupt < 0)).sum())}
        for name, values in (("clean", clean), ("corrupt", corrupt)):
            row |= _mean(name, values)
        row["example"] = f"{_said(pairs.clean[0].text)} / {_said(pairs.corrupt[0].text)}"
        return {"Pairs": pd.DataFrame([row])}

    # -- heads -------------------------------------------------------------------------------------------------------

    def ranking(self) -> HeadRanking:
        """By ``auto``, kept."""
        folder = self.folder / "auto"
        if not folder.is_dir():
            began = time.perf_counter()
            ranked, _ = self.pairs()
            found = locate(self.model, ranked, "auto", positions=self.positions(ranked), check=2)
            found.save(folder)
            seconds = round(time.perf_counter() - began)
            (self.folder / "auto.json").write_text(json.dumps({"seconds": seconds}), encoding="utf-8")
            print(self.model.name, self.name, "auto", f"{seconds} s", flush=True)
        return load_ranking(folder)

    def first(self, k: int | None = None) -> list[Head]:
        """The first heads."""
        return self.ranking().select(top=k or self.size.heads)

    def about_heads(self) -> Tables:
        """The first ten, how stable they are, and what the ranking says of itself."""
        ranking = self.ranking()
        top = ranking.top(10)
        shares = consensus(ranking, len(top)).set_index("label")
        rows = []
        for row in top.itertuples():
            of = {"task": self.name, "head": row.label, "importance": row.score}
            of |= {"importance_low": row.ci_low, "importance_high": row.ci_high, "effect": row.effect}
            of |= {"effect_low": row.effect_ci_low, "effect_high": row.effect_ci_high}
            of |= {"share of resamples": shares["share"].get(row.label, 0.0)}
            of |= {"stability": shares["kind"].get(row.label, "noise"), "kind": row.kind or "–", "n": row.n}
            rows.append(of)
        kinds = shares["kind"].value_counts()
        found = ranking.provenance
        stable = {"task": self.name, "n": ranking.n_examples, "core": int(kinds.get("core", 0))}
        stable |= {"contingent": int(kinds.get("contingent", 0)), "noise": int(kinds.get("noise", 0))}
        half = ranking.reliability
        stable |= Estimate(*half[:3]).columns("split_half")
        stable |= {"passes for each pair": found["passes"], "passes beside": found["beside_numbers"]["passes"]}
        stable |= {"seconds": self.seconds("auto")}
        said = [f"{self.name}: {sentence}" for sentence in found["beside"]] or [f"{self.name}: nothing is said beside."]
        return {
            "First heads": pd.DataFrame(rows),
            "Stability": pd.DataFrame([stable]),
            "Said beside the rankings": said,
        }

    # -- sets --------------------------------------------------------------------------------------------------------

    def about_sets(self) -> Tables:
        """Necessity and sufficiency of the first heads, on other pairs."""
        few, tenth = self.size.heads, self.model.n_layers * self.model.n_heads // 10
        sets = ((few, self.size.random), (tenth, min(9, self.size.random)))
        return {"Sets": pd.DataFrame([self._weighed(f"first {k}", self.first(k), n) for k, n in sets])}

    def _weighed(self, name: str, heads: Sequence[Head], n_random: int | None = None) -> dict[str, Any]:
        _, others = self.pairs()
        n_random = self.size.random if n_random is None else n_random
        found = weigh_set(self.model, others, heads, n_random=n_random, positions=self.positions(others))
        row: dict[str, Any] = {"task": self.name, "set": name, "heads": len(found.heads)}
        for what in ("necessity", "sufficiency"):
            row |= getattr(found, what).columns(what)
            row |= {f"{what} of random": float(found.random[what].mean()) if len(found.random) else np.nan}
            row |= {f"p of {what}": found.p[what]}
        return row | {"random sets": len(found.random), "n": found.n}

    def about_curve(self) -> Tables:
        """Keep only the first k heads; replace only them."""
        _, others = self.pairs()
        n = self.model.n_layers * self.model.n_heads
        sizes = sorted({1, 2, 4, 8, 16, n // 10, n // 5, n // 3, n // 2, 2 * n // 3})
        curve = faithfulness(self.model, others, self.ranking(), sizes, positions=self.positions(others))
        frame = curve.to_frame()
        frame.insert(0, "task", self.name)
        areas = {"task": self.name, "CPR": curve.cpr, "CMD": curve.cmd, "n": len(others)}
        return {"Curves": frame.assign(n=len(others)), "Areas of the curves": pd.DataFrame([areas])}

    def about_minimal(self) -> Tables:
        """The smallest set found that keeps 80 % on the pairs of the ranking, and what it keeps on others."""
        ranked = self.pairs()[0][: self.size.minimal]
        heads, kept = minimal_set(self.model, ranked, self.ranking(), 0.8, positions=self.positions(ranked))
        row = self._weighed("minimal", heads, n_random=3)
        named = ", ".join(head_label(*h) for h in heads[:12]) + (" ..." if len(heads) > 12 else "")
        return {"Minimal sets": pd.DataFrame([{**row, "kept where found": kept, "first named": named}])}

    def about_paths(self) -> Tables:
        """Which of the first heads tells which, by what; and which heads matter only together."""
        _, others = self.pairs()
        heads, pairs = self.first(), others[: self.size.paths]
        paths = patch_paths(self.model, pairs, heads)
        CircuitGraph.from_paths(paths).save(_fresh(self.folder / "importances.json"))
        frame = paths.to_frame().head(8)
        values = {}
        for s, sender in enumerate(paths.senders):
            values[head_label(*sender), "logits", ""] = paths.to_logits[:, s]
            for r, receiver in enumerate(paths.receivers):
                for p, part in enumerate("qkv"):
                    values[head_label(*sender), head_label(*receiver), part] = paths.effects[:, s, r, p]
        rows = []
        for row in frame.itertuples():
            of = {"task": self.name, "sender": row.sender, "receiver": row.receiver, "part": row.part or "–"}
            rows.append(of | _mean("effect", values[row.sender, row.receiver, row.part]) | {"n": len(pairs)})
        together = only_together(self.model, others, heads[:6], positions=self.positions(others)).head(2)
        together.insert(0, "task", self.name)
        return {"Paths": pd.DataFrame(rows), "Heads that matter together": together.assign(n=len(others))}

    # -- NAS and gates -----------------------------------------------------------------------------------------------

    def nas(self) -> HeadRanking:
        """By the size of the order-balanced NAS, of the questions of the ranking's pairs."""
        ranked, _ = self.pairs()
        rows = {row.id: row for row in written_pairs(self.name, 3 * (self.size.ranked + self.size.held_out))}
        sides = [
            side
            for p in ranked.clean
            for side in ((rows[p.id].clean, rows[p.id].answer), (rows[p.id].corrupt, rows[p.id].corrupt_answer))
        ]
        questions = [Question(str(i), text.removeprefix(YES_NO), str(answer)) for i, (text, answer) in enumerate(sides)]
        found = rank_heads(self.model, questions, n_views=0)
        return _of_sizes(found.measures["nas_order_balanced"], found.n_examples)

    def gates(self) -> tuple[HeadRanking, float]:
        """By how open gates stay; and how many are undecided."""
        ranked, _ = self.pairs()
        asked = Asked(self.model, ranked, default_metric(ranked.clean), self.positions(ranked), 0, 0)
        steps, batch = self.size.gates
        found = learn_gates(asked, steps, batch=batch, fits=(1,))
        return _of_sizes(found.kept[None], len(ranked)), found.undecided

    def about_nas(self) -> Tables:
        """What NAS finds beside what gates find, and which of the two sets the answer needs."""
        nas, (gates, undecided) = self.nas(), self.gates()
        ways = {"nas": nas, "gates": gates}
        sets = [self._weighed(f"first 10 by {way}", ranking.select(top=10), 9) for way, ranking in ways.items()]
        shared = set(nas.select(top=10)) & set(gates.select(top=10))
        agreement = spearman(nas.scores.mean(0).ravel(), gates.scores.mean(0).ravel())[0]
        row = {"task": self.name, "of first ten, shared": len(shared), "by chance": 100 / nas.scores[0].size}
        row |= {"spearman over heads": agreement, "n": self.size.ranked}
        named = [f"First by {way}: {', '.join(head_label(*h) for h in r.select(top=10))}." for way, r in ways.items()]
        named.append(f"{undecided:.0%} of the gates are between 0.1 and 0.9 after {self.size.gates[0]} steps.")
        return {
            "NAS beside gates": pd.DataFrame([row]),
            "What each finds": named,
            "Sets by NAS and gates": pd.DataFrame(sets),
        }

    # -- stability ---------------------------------------------------------------------------------------------------

    def about_variance(self) -> Tables:
        """Inputs, wording and ablation: what moves the ranks."""
        n, ranked = self.size.stability, []
        for wording in (0, 1):
            pairs = self.built(2 * n, wording)
            for half in (0, 1):
                some = pairs[half * n : (half + 1) * n]
                for way in ("patch", "mean"):
                    found = locate(self.model, some, way, positions=self.positions(pairs), check=0, warn=False)
                    levels = {"inputs": f"{wording}-{half}", "wording": str(wording), "ablation": way}
                    ranked.append((levels, found))
        frame = sources_of_variance(ranked)
        frame.insert(0, "task", self.name)
        return {"What moves the ranks": frame.assign(n=n)}

    def run(self) -> None:
        """All steps of the task that are not there yet."""
        for step in STEPS:
            if step == "nas" and self.name != "yes_no":
                continue
            if step == "variance" and not (self.size.stability and self.name == "agreement"):
                continue
            self.keep(step, getattr(self, f"about_{step}"))


def _frame(record: dict[str, Any]) -> pd.DataFrame:
    frame = pd.DataFrame(record["data"], columns=record["columns"])
    for name, column in frame.items():
        if column.map(lambda value: value is None or isinstance(value, int | float)).all():
            frame[name] = pd.to_numeric(column)  # JSON has no NaN
    return frame


def _fresh(path: Path) -> Path:
    path.unlink(missing_ok=True)
    return path


def _mean(name: str, values: np.ndarray) -> dict[str, float]:
    low, high = mean_interval(values)
    return Estimate(float(np.mean(values)), float(low), float(high)).columns(name)


def _said(text: str) -> str:
    """The last line that says something, without marks of a template."""
    lines = [line.split("<|")[0].strip() for line in text.splitlines()]
    return next((line for line in reversed(lines) if line and line != "assistant"), "")


def _of_sizes(values: np.ndarray, n: int) -> HeadRanking:
    sizes = np.abs(values.mean(0, keepdims=True)).astype(np.float32)
    measure = Measure("size", "The size of the mean.", "", (0.0, None), higher="matters more")
    return HeadRanking("size", {"size": sizes}, ("all pairs",), {"size": measure}, {"n": n})


def write(model: str) -> Path:
    """One page of all that is there."""
    page: Tables = {}
    for path in (BUILD / model / task / f"{step}.json" for step in STEPS for task in TASKS):
        for name, value in _tables(path).items() if path.is_file() else ():
            was = page.get(name)
            page[name] = value if was is None else was + value if isinstance(value, list) else pd.concat([was, value])
    path = TABLES / f"{model}.md"
    write_page(path, f"Circuits: {model}", page)
    return path


def _tables(path: Path) -> Tables:
    record = json.loads(path.read_text(encoding="utf-8"))
    return {name: v if isinstance(v, list) else _frame(v) for name, v in record["tables"].items()}


def main(arguments: Sequence[str]) -> None:
    """All steps of the named tasks (all), and the page."""
    name, tasks = arguments[0], arguments[1:] or TASKS
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    model = interp.load(name)
    for task in tasks:
        Task(model, task, SIZES[name]).run()
        print(write(name), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

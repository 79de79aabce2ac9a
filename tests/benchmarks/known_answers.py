"""Every way of finding heads, on models whose heads are known: ``python -m tests.benchmarks.known_answers [MODELS]``.

Each model with each condition and draw is one line of ``build/known_answers.jsonl``; what is there is not computed
again, so a killed run goes on. ``known_answers.md`` is written from it at the end, or by ``... known_answers table``.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections import defaultdict
from itertools import product
from pathlib import Path

import numpy as np
import torch

from interp.circuits import faithfulness
from interp.locating import WAYS, locate
from interp.statistics import Estimate
from probes.known_answers import ALTERATIONS, KnownModel, has_backup, known_models, load_known
from probes.known_answers.scoring import FLOOR, auroc, mean_interval, precision

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "build" / "known_answers.jsonl"
PAGE = Path(__file__).with_suffix(".md")
N_PAIRS, SEEDS = 20, (0, 1)
N_CURVE = 8  # pairs of the faithfulness curves, of unaltered models
FEWER = {"gates": 6, "greedy": 6}  # pairs of the dear ways, in one draw, at the end
AT = {
    "zero": ("all", "answer"),
    "mean": ("all", "answer"),
    "resample": ("all", "answer"),
    "patch": ("all", "answer"),
    "denoise": ("all", "answer"),
    "attribution_patching": ("all", "answer"),
}
WITH_PAIRS = ("a variable held constant", "a variable silent")
DEAR = ("unaltered", "cancelling pair")  # where the dear ways are tried
CONDITIONS = ("unaltered", *ALTERATIONS, *WITH_PAIRS)


def cells() -> list[tuple[str, str]]:
    """(way, positions) of every row of the table."""
    return [
        (way, str(at)) for way, w in WAYS.items() for at in (AT.get(way, ("all",)) if w.everywhere else ("answer",))
    ]


def under(base: KnownModel, condition: str) -> tuple[KnownModel, dict[str, str]] | None:
    """The model under a condition, and what pairs it takes; None where there is none."""
    if condition == "backup head" and not has_backup(base):
        return None
    if condition in ALTERATIONS:
        return ALTERATIONS[condition](base), {}
    if condition in WITH_PAIRS:
        kind = "constant" if condition == WITH_PAIRS[0] else "silent"
        for variable in base.heads:  # the first for which there are pairs
            try:
                base.pairs(N_PAIRS, **{kind: variable})
            except ValueError:
                continue
            return base, {kind: variable}
        return None
    return base, {}


def measured(known: KnownModel, chosen: dict[str, str], draw: int) -> list[dict]:
    """One row for each way and place: of a draw of pairs; after the last draw, of the dear ways."""
    rows, counts, seed = [], known.counts.ravel(), draw % len(SEEDS)
    pairs = known.pairs(N_PAIRS, seed=seed, **chosen)
    for way, at in cells():
        if (way in FEWER) != (draw == len(SEEDS)):
            continue
        began = time.perf_counter()
        own = pairs[: FEWER.get(way, N_PAIRS)]
        ranking = locate(known.model, own, way, positions=at, check=0, seed=seed, warn=False)
        scores, truth = ranking.scores.mean(0).ravel()[counts], known.truth.ravel()[counts]
        rows.append(
            {
                "way": way,
                "at": at,
                "seed": seed,
                "auroc": auroc(scores, truth),
                "precision": precision(scores, truth),
                "passes": ranking.provenance["passes"],
                "seconds": round(time.perf_counter() - began, 3),
            }
        )
        if seed == 0 and not known.alteration and not chosen:
            curve = faithfulness(known.model, pairs[:N_CURVE], ranking)
            rows[-1] |= {"cpr": curve.cpr, "cmd": curve.cmd}
    return rows


def run(names: list[str]) -> None:
    """Measure what is not there yet, draw by draw, so that what a killed run leaves is a table too."""
    torch.set_num_threads(1)
    KEPT.parent.mkdir(exist_ok=True)
    done = {(row["model"], row["condition"], row["draw"]) for row in kept()}
    for draw, name, condition in product(range(len(SEEDS) + 1), names, CONDITIONS):
        if (name, condition, draw) in done or (
            draw == len(SEEDS) and condition not in ("unaltered", "cancelling pair")
        ):
            continue
        base = load_known(name)
        found = under(base, condition)
        line = {"model": name, "kind": base.kind, "condition": condition, "draw": draw, "rows": []}
        if found is not None:
            known, chosen = found
            line |= {"variable": next(iter(chosen.values()), None), "rows": measured(known, chosen, draw)}
        with KEPT.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(draw, name, condition, f"{sum(row['seconds'] for row in line['rows']):.1f} s", flush=True)


def kept() -> list[dict]:
    """What was measured."""
    return [json.loads(line) for line in KEPT.read_text("utf-8").splitlines()] if KEPT.is_file() else []


def table() -> str:
    """The page: worst cells first, then every way under every condition."""
    lines = kept()
    values: dict[tuple[str, str], dict[str, dict[str, list[dict]]]] = defaultdict(lambda: defaultdict(dict))
    for line in lines:
        for row in line["rows"]:
            values[row["way"], row["at"]][line["condition"]].setdefault(line["model"], []).append(row)
    scan_cost = {  # of every head zeroed at all positions
        (line["model"], line["condition"]): row["passes"]
        for line in lines
        for row in line["rows"]
        if (row["way"], row["at"], row["seed"]) == ("zero", "all", 0)
    }
    models = {line["model"]: line["kind"] for line in lines}
    n_programs = sum(kind == "program" for kind in models.values())
    out = [
        "# Known answers: which way finds the heads that are there?",
        "",
        f"{n_programs} compiled programs and {len(models) - n_programs} trained twins; {N_PAIRS} pairs of inputs in "
        f"{len({line['draw'] for line in lines} - {len(SEEDS)})} of {len(SEEDS)} draws; {len(models)} of "
        f"{len(known_models())} models are done. Gates and greedy have 6 pairs, one draw, and not every cell. "
        "Scores below "
        f"{FLOOR:.0%} of the largest count as ties. AUROC is 1 where every head that matters is ranked before every "
        "other, 0.5 for a random order. Precision (of the first k of k heads that matter), CPR and CMD (areas of the "
        f"curves of keeping only the first heads, arXiv 2504.13151, {N_CURVE} pairs) are of unaltered models. "
        "Intervals are over models and draws of pairs. Written by "
        "`python -m tests.benchmarks.known_answers`; how to read it: docs/methods/known-answers.md.",
        "",
        "## The worst cells",
        "",
        "| way | positions | condition | mean AUROC [95 %] | worst model | its AUROC | models |",
        "|---|---|---|---|---|---|---|",
    ]
    summary = []
    for (way, at), conditions in values.items():
        if way == "random":
            continue
        for condition, by_model in conditions.items():
            means = {name: float(np.mean([row["auroc"] for row in rows])) for name, rows in by_model.items()}
            worst = min(means, key=means.get)
            interval = mean_interval([[row["auroc"] for row in rows] for rows in by_model.values()])
            summary.append((interval, way, at, condition, worst, means[worst], len(means)))
    for interval, way, at, condition, worst, low, n in sorted(summary)[:15]:
        out.append(f"| {way} | {at} | {condition} | {_interval(interval)} | {worst} | {low:.2f} | {n} |")
    present = [c for c in CONDITIONS if any(c in conditions for conditions in values.values())]
    out += ["", "## Mean AUROC (worst model in brackets)", ""]
    out += ["| way | positions | " + " | ".join(present) + " | precision | CPR | CMD | cost in scans |"]
    out += ["|---|---|" + "---|" * (len(present) + 4)]
    for way, at in cells():
        if (way, at) not in values:
            continue
        row = []
        for condition in present:
            by_model = values[way, at].get(condition, {})
            means = [np.mean([r["auroc"] for r in rows]) for rows in by_model.values()]
            row.append(f"{np.mean(means):.2f} ({min(means):.2f})" if means else "")
        hits = [r["precision"] for rows in values[way, at].get("unaltered", {}).values() for r in rows]
        curves = [
            np.mean(
                [r[name] for rows in values[way, at].get("unaltered", {}).values() for r in rows if name in r]
                or [np.nan]
            )
            for name in ("cpr", "cmd")
        ]
        cost = [
            r["passes"] / scan_cost[name, condition]
            for condition, by_model in values[way, at].items()
            for name, rows in by_model.items()
            for r in rows
        ]
        out.append(
            f"| {way} | {at} | "
            + " | ".join(row)
            + f" | {np.mean(hits):.2f} | {curves[0]:.2f} | {curves[1]:.2f} | {np.mean(cost):.1f} |"
        )
    out += [
        "",
        "## By kind of model, unaltered: mean AUROC [95 %]",
        "",
        "| way | positions | programs | twins |",
        "|---|---|---|---|",
    ]
    for way, at in cells():
        by_model = values[way, at].get("unaltered", {})
        row = []
        for kind in ("program", "twin"):
            groups = [[r["auroc"] for r in rows] for name, rows in by_model.items() if models[name] == kind]
            row.append(_interval(mean_interval(groups)) if groups else "")
        out.append(f"| {way} | {at} | {row[0]} | {row[1]} |")
    out += ["", "## Models", "", "| model | heads | variables held constant, silent |", "|---|---|---|"]
    for name in models:
        known = load_known(name)
        heads = ", ".join(f"{variable} L{layer}H{head}" for variable, (layer, head) in known.heads.items())
        variables = {line["condition"]: line.get("variable") or "none" for line in lines if line["model"] == name}
        held = [variables.get(c, "not tried") for c in WITH_PAIRS]
        out.append(f"| {name} | {heads} | {', '.join(held)} |")
    return "\n".join(out) + "\n"


def _interval(values: tuple[float, float, float]) -> str:
    return f"{Estimate(*values):.2f}"


def main(arguments: list[str]) -> None:
    """Measure the named models (all), and write the page."""
    warnings.simplefilter("ignore")
    if arguments != ["table"]:
        run(arguments or list(known_models()))
    PAGE.write_text(table(), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main(sys.argv[1:])

"""`python -m tests.benchmarks.screening [MODEL [N]]`: do screens find the first heads that exact scans in float32 find?

All heads of the first shipped questions are measured exactly, by scans in bfloat16, and by a gradient; then the rule of
`rank_by_effect(screen=...)` is applied to all of them and to random subsets. Writes screening.json and screening.md
beside this file. CPU time of one thread; SmolLM2 takes about half an hour; of N
questions, at the answer alone, less.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import interp
from interp.locating import Screened, confirmed, estimate_removal
from interp.models import Model, twin_in
from interp.prompts import Prompt
from interp.reading import LogitDifference
from interp.statistics.rank_agreement import spearman
from probes.heads import HeadEffects
from probes.questions.instructions import build_prompts
from probes.questions.questions import load_questions

HERE = Path(__file__).parent
TOP = 10
QUESTIONS = {"answer": 100, "all": 8}
SUBSETS = (1.0, 1), (0.75, 10), (0.5, 20)
"""Shares of the questions, and how many random subsets of so many."""
COLUMNS = ("same first ten", "shared of ten", "by the screen alone", "heads confirmed", "off by (logits)")


def measured(model: Model, prompts: Sequence[Prompt], positions: str) -> dict[str, Any]:
    """Effects [question, layer, head] by each way, and CPU seconds a question."""
    metric = LogitDifference("No", "Yes")
    twin = twin_in(model, torch.bfloat16)
    exact = HeadEffects(model, prompts, metric, "zero", positions)
    half = HeadEffects(twin, prompts, metric, "zero", positions)
    last = 1 if positions == "answer" else None
    ways: dict[str, Callable[[Sequence[Prompt]], np.ndarray]] = {
        "exact": lambda batch: exact.measure(batch, direct=False)["total_effect"],
        "bfloat16": lambda batch: half.measure(batch, direct=False)["total_effect"],
        "gradient": lambda batch: estimate_removal(model, batch, metric, last=last),
    }
    found: dict[str, Any] = {name: [] for name in ways}
    seconds = dict.fromkeys([*ways, "plain pass"], 0.0)
    for start in range(0, len(prompts), 4):  # interleaved, batch by batch
        batch = prompts[start : start + 4]
        for name, way in ways.items():
            began = time.process_time()
            found[name].append(way(batch))
            seconds[name] += (time.process_time() - began) / len(prompts)
        began = time.process_time()
        with torch.no_grad():
            for prompt in batch:
                model.hf(torch.tensor([prompt.token_ids]), use_cache=False, logits_to_keep=1)
        seconds["plain pass"] += (time.process_time() - began) / len(prompts)
        print(f"  {positions}: {start + len(batch)} of {len(prompts)}", file=sys.stderr, flush=True)
    return {"effects": {name: np.concatenate(parts) for name, parts in found.items()}, "seconds": seconds}


def first(effects: np.ndarray) -> set[int]:
    """The first heads by their mean."""
    return set(np.argsort(-effects.mean(0), axis=None, kind="stable")[:TOP].tolist())


def judged(effects: dict[str, np.ndarray], screen: str, subsets: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
    """Of subsets of questions: whether the first heads came out, how many were confirmed."""
    rng, rows = np.random.default_rng(0), []
    for size, n_subsets in subsets:
        of_all = [rng.choice(len(effects["exact"]), size, replace=False) for _ in range(n_subsets)]
        found: list[tuple[set[int], set[int], Screened]] = []
        for chosen in of_all:
            true = effects["exact"][chosen]
            done = confirmed(
                effects[screen][chosen], lambda heads, _, true=true: true[:, *np.array(heads).T], TOP, screen
            )
            found.append((first(true), first(done.effects), done))
        alone = [first(effects[screen][chosen]) for chosen in of_all]
        rows.append(
            {
                "questions": size,
                "subsets": n_subsets,
                "same": sum(a == b for a, b, _ in found),
                "shared": float(np.mean([len(a & b) for a, b, _ in found])),
                "unconfirmed": float(np.mean([len(a & b) for (a, _, _), b in zip(found, alone, strict=True)])),
                "exact": float(np.mean([len(s.heads) for _, _, s in found])),
                "off_by": max(s.off_by for _, _, s in found),
            }
        )
    return rows


def measure(name: str, n_questions: int | None) -> dict[str, Any]:
    """All of one model; of a few questions, at the answer alone."""
    model, out = interp.load(name), {}
    for positions, n in QUESTIONS.items() if n_questions is None else [("answer", n_questions)]:
        prompts = build_prompts(model, load_questions()[:n])
        done = measured(model, prompts, positions)
        effects, means = done["effects"], {k: v.mean(0).ravel() for k, v in done["effects"].items()}
        out[positions] = {
            "seconds": done["seconds"],
            "spearman": {k: spearman(means["exact"], means[k])[0] for k in ("bfloat16", "gradient")},
            "screens": {
                k: judged(effects, k, [(round(share * n), of) for share, of in SUBSETS])
                for k in ("bfloat16", "gradient")
            },
        }
    return out


def page(everything: dict[str, Any]) -> str:
    """The Markdown page."""
    out = [
        "Made by `python -m tests.benchmarks.screening`. Every head zeroed, logit of No less logit of Yes, one order",
        f"of the options; the first {TOP} heads by their mean effect over the questions, in exact float32 and by",
        "`screen=`: all heads roughly, then exactly those whose interval reaches the first ten.",
        "",
    ]
    for name, of_model in everything.items():
        for positions, found in of_model.items():
            seconds, agrees = found["seconds"], found["spearman"]
            out += [f"## {name}, positions {positions}", "", "| way | s | plain passes | Spearman with exact |"]
            out += ["|---|---:|---:|---:|"]
            for way in ("plain pass", "exact", "bfloat16", "gradient"):
                alike = f"{agrees[way]:.3f}" if way in agrees else ""
                out.append(f"| {way} | {seconds[way]:.2f} | {seconds[way] / seconds['plain pass']:.1f} | {alike} |")
            out += ["", "| screen | questions | subsets | " + " | ".join(COLUMNS) + " |", "|---|" + "---:|" * 7]
            for screen, rows in found["screens"].items():
                for r in rows:
                    cells = [r["questions"], r["subsets"], r["same"], f"{r['shared']:.1f}", f"{r['unconfirmed']:.1f}"]
                    cells += [f"{r['exact']:.0f}", f"{r['off_by']:.3f}"]
                    out.append(f"| {screen} | " + " | ".join(map(str, cells)) + " |")
            out.append("")
    return "\n".join(out)


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    kept = HERE / "screening.json"
    everything = json.loads(kept.read_text()) if kept.exists() else {}
    name, few = [*sys.argv[1:], "smollm2-135m"][0], sys.argv[2:]
    everything[name] = measure(name, int(few[0]) if few else None)
    kept.write_text(json.dumps(everything, indent=1) + "\n")
    (HERE / "screening.md").write_text(page(everything))
    print(page(everything))


if __name__ == "__main__":
    main()

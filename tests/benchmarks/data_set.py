"""What a data set costs beside its floor: ``python -m tests.benchmarks.data_set [QUESTIONS]`` writes data_set.md.

The floor is the data set's distinct prefix tokens and its branch tokens, each at the price of a token in one dense
batch: what nobody can go below without leaving out work. CPU time of one thread, medians of interleaved runs on
SmolLM2, every head zeroed at the answer, the default check and the answers' mass included.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import pandas as pd
import torch

import interp
from interp.passes import plain_logits
from interp.reports.markdown import write_page
from interp.scans.fanout import fan_out_logits
from probes.negative_bias import build_prompts
from probes.questions import load_questions

PAGE = Path(__file__).with_suffix(".md")
ROUNDS = 3


def seconds(run: Callable[[], object]) -> float:
    began = time.process_time()
    run()
    return time.process_time() - began


def distinct_tokens(prompts: list[interp.Prompt]) -> int:
    """Prefixes that differ, of all prompts without their last token."""
    return len({p.token_ids[: n + 1] for p in prompts for n in range(len(p) - 1)})


def branch_tokens(model: interp.Model, n_prompts: int) -> float:
    """Of the unedited rows and of every head's, from the layer that they join at on."""
    n = model.n_layers * model.n_heads
    return n_prompts * (1 + n * (model.n_layers + 1) / (2 * model.n_layers))


def measured(model: interp.Model, prompts: list[interp.Prompt], name: str) -> dict:
    """One row of the table."""
    edits, check = interp.ablate_each_head("zero"), interp.load("smollm2-135m")  # the second was never checked
    answers = [token for of in prompts[0].answers.values() for token in of]
    branches = edits.branches(model)
    sample = sorted(prompts, key=len)[:: max(1, len(prompts) // 16)]
    width = max(map(len, sample))
    dense = torch.tensor([[*p.token_ids, *p.token_ids[-1:] * (width - len(p))] for p in sample])

    @torch.no_grad()
    def in_one_batch() -> None:
        model.hf(dense, logits_to_keep=1, use_cache=False)

    plain = [lambda p=p: plain_logits(model, p) for p in sample]
    alone = [lambda p=p: fan_out_logits(model, p, branches, 1, answers) for p in sample[:4]]
    found: dict[str, list[float]] = {"dense": [], "plain": [], "alone": [], "together": []}
    for _ in range(ROUNDS):
        found["dense"].append(seconds(in_one_batch) / dense.numel())
        found["plain"].append(sum(map(seconds, plain)) / len(plain))
        found["alone"].append(sum(map(seconds, alone)) / len(alone))
        found["together"].append(seconds(lambda: interp.scan(model, prompts, edits, check=0)) / len(prompts))
    first = seconds(lambda: interp.scan(check, prompts, edits)) / len(prompts)
    tokens = distinct_tokens(prompts) + branch_tokens(model, len(prompts))
    floor = [per_token * tokens / len(prompts) for per_token in found["dense"]]
    ratios = [took / least for took, least in zip(found["together"], floor, strict=True)]
    return {
        "prompts": name,
        "n": len(prompts),
        "tokens": f"{min(map(len, prompts))} to {max(map(len, prompts))}",
        "lengths": len({len(p) for p in prompts}),
        "distinct prefix tokens a prompt": round(distinct_tokens(prompts) / len(prompts), 1),
        "floor, seconds a prompt": median(floor),
        "together, seconds a prompt": median(found["together"]),
        "one at a time": median(found["alone"]),
        "a plain pass": median(found["plain"]),
        "together over the floor": median(ratios),
        "in each round": " ".join(f"{ratio:.2f}" for ratio in sorted(ratios)),
        "first run with check and mass, over one without": first / median(found["together"]),
    }


def main(n: int) -> None:
    torch.set_num_threads(1)
    model = interp.load("smollm2-135m")
    questions = load_questions()
    every = max(1, len(questions) // n)
    prompts = build_prompts(model, questions[::every])
    rows = [measured(model, prompts, "shipped questions")]
    mixed = [p for i, p in enumerate(sorted(prompts, key=len)) if i % 4 == 0]
    rows.append(measured(model, mixed, "a quarter of them, of as many lengths"))
    write_page(PAGE, "What a data set costs beside its floor", {"smollm2-135m": pd.DataFrame(rows)})
    print(PAGE.read_text("utf-8"))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 500)

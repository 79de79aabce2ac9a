"""`make bench`: what the scans cost on the real default model, against plain passes and TransformerLens's own tools.

Times are medians, in one process, the contestants interleaved round by round. Peak memory is measured in a process
of its own for each contestant. Writes results.md and results.json beside this file.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import torch
from scipy.stats import pearsonr
from transformer_lens import patching
from transformer_lens.tools.analysis.attribution_patching import attribution_patch

import interp
from interp.reading.capture import attention_log_probs
from probes.questions.questions import load_questions
from tests.benchmarks.peers import pair_of, prompt_of

HERE = Path(__file__).parent
MODEL = "smollm2-135m"
LENGTHS = (113, 500)
MEMORY_TOKENS = 2000
EVERY = 10  # the loops are timed on every tenth head and multiplied by ten
ROUNDS = {113: 5, 500: 3}
UNIT = "plain forward pass, last logits"


def contestants(model: interp.Model, n_tokens: int) -> dict[str, Callable[[], object]]:
    prompt, source = pair_of(model, n_tokens)
    ids, source_ids = torch.tensor([prompt.token_ids]), torch.tensor([source.token_ids])
    no, yes = prompt.answers["No"][0], prompt.answers["Yes"][0]
    heads = [(layer, head) for layer in range(model.n_layers) for head in range(model.n_heads)][::EVERY]

    def metric(logits: torch.Tensor) -> torch.Tensor:
        return logits[0, -1, no] - logits[0, -1, yes]

    def zero(head: int, z: torch.Tensor, hook: object) -> torch.Tensor:
        z[:, -1, head] = 0
        return z

    def tl_loop() -> None:
        for layer, head in heads:
            hook = (f"blocks.{layer}.attn.hook_z", lambda z, hook, head=head: zero(head, z, hook))
            metric(model.bridge.run_with_hooks(ids, fwd_hooks=[hook]))

    def tl_patching() -> None:
        _, cache = model.bridge.run_with_cache(source_ids, names_filter=lambda n: n.endswith("hook_z"))
        patching.generic_activation_patch(
            model.bridge,
            ids,
            cache,
            metric,
            patching.layer_head_vector_patch_setter,
            "z",
            index_df=pd.DataFrame(heads, columns=["layer", "head"]),
        )

    def with_grad() -> object:
        with torch.enable_grad():
            return attribution_patch(model.bridge, source_ids, ids, metric)

    nas_queries = [range(prompt.span("instruction")[-1] + 1, len(prompt))]
    nas_keys = [[prompt.span("positive"), prompt.span("negative")]]
    every = interp.ablate_each_head("zero")
    patch = interp.patch_each_head([source])
    return {
        "plain forward pass, all logits": lambda: model.hf(ids, use_cache=False),
        "plain forward pass, last logits": lambda: model.hf(ids, use_cache=False, logits_to_keep=1),
        "TransformerBridge forward pass": lambda: model.bridge(ids),
        "NAS of all heads": lambda: attention_log_probs(model, [prompt], nas_queries, nas_keys),
        "fan-out, every head zeroed at the answer": lambda: interp.scan(model, [prompt], every, check=0),
        "fan-out, every head patched at the answer": lambda: interp.scan(model, [prompt], patch, check=0),
        "scan, every head patched at all positions": lambda: interp.scan(
            model, [prompt], patch, positions="all", check=0
        ),
        "TransformerLens loop, every head zeroed": tl_loop,
        "TransformerLens patching, every head, all positions": tl_patching,
        "TransformerLens attribution patching (estimate)": with_grad,
    }


SAMPLED = ("TransformerLens loop, every head zeroed", "TransformerLens patching, every head, all positions")
SLOW = (*SAMPLED, "scan, every head patched at all positions")


@torch.no_grad()
def time_all(model: interp.Model, n_tokens: int) -> dict[str, float]:
    """Median seconds of each contestant; the slow ones run once, in the last round."""
    runs = contestants(model, n_tokens)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for name, run in runs.items():
        if name not in SLOW:
            run()  # warm up
    for round_ in range(ROUNDS[n_tokens]):
        for name, run in runs.items():
            if name in SLOW and round_ < ROUNDS[n_tokens] - 1:
                continue
            began = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - began)
            print(f"  {n_tokens} tokens, round {round_}: {name} {seconds[name][-1]:.2f} s", flush=True)
    return {n: statistics.median(s) * (EVERY if n in SAMPLED else 1) for n, s in seconds.items()}


def agreement(model: interp.Model, n_tokens: int) -> dict[str, float]:
    """How near the gradient estimate comes to exact patching of each head at all positions, one pair of prompts."""
    prompt, source = pair_of(model, n_tokens)
    no, yes = prompt.answers["No"][0], prompt.answers["Yes"][0]
    exact = interp.scan(model, [prompt], interp.patch_each_head([source]), positions="all").change[0]
    result = attribution_patch(
        model.bridge,
        torch.tensor([source.token_ids]),
        torch.tensor([prompt.token_ids]),
        lambda logits: logits[0, -1, no] - logits[0, -1, yes],
    )
    estimate = np.zeros((model.n_layers, model.n_heads))
    for node, score in result.node_scores.items():  # one node for each position, layer and head
        if node.head is not None:
            estimate[node.layer, node.head] += score
    difference = np.abs(estimate.ravel() - exact)
    return {
        "pearson": float(pearsonr(estimate.ravel(), exact)[0]),
        "largest_error_logits": float(difference.max()),
        "largest_effect_logits": float(np.abs(exact).max()),
    }


def peak_mib(run: Callable[[], object]) -> float:
    """Largest rise of resident memory while ``run`` runs, sampled every 2 ms."""
    process, done, peak = psutil.Process(), threading.Event(), [0]

    def watch() -> None:
        while not done.is_set():
            peak[0] = max(peak[0], process.memory_info().rss)
            time.sleep(0.002)

    before = process.memory_info().rss
    thread = threading.Thread(target=watch)
    thread.start()
    try:
        run()
    finally:
        done.set()
        thread.join()
    return (peak[0] - before) / 2**20


@torch.no_grad()
def memory_of(what: str) -> float:
    """Peak memory of one contestant at MEMORY_TOKENS, in this process (run in a fresh one)."""
    model = interp.load(MODEL)
    prompt = prompt_of(model, MEMORY_TOKENS, load_questions()[0])
    ids = torch.tensor([prompt.token_ids])
    queries = [range(prompt.span("instruction")[-1] + 1, len(prompt))]
    keys = [[prompt.span("positive"), prompt.span("negative")]]
    runs = {
        "NAS of all heads": lambda: attention_log_probs(model, [prompt], queries, keys),
        "run_with_cache of the patterns": lambda: model.bridge.run_with_cache(
            ids, names_filter=lambda name: name.endswith("hook_pattern")
        ),
        "plain forward pass, last logits": lambda: model.hf(ids, use_cache=False, logits_to_keep=1),
    }
    return peak_mib(runs[what])


MEMORY = ("plain forward pass, last logits", "NAS of all heads", "run_with_cache of the patterns")


def markdown(found: dict) -> str:
    out = [f"Machine: {found['machine']}. Model: {MODEL}, float32. Made by `make bench`.", ""]
    names = list(next(iter(found["seconds"].values())))
    out += ["| | " + " | ".join(f"{n} tokens: s | {n} tokens: plain passes" for n in found["seconds"]) + " |"]
    out += ["|---|" + "---:|---:|" * len(found["seconds"])]
    for name in names:
        cells = []
        for table in found["seconds"].values():
            cells += [f"{table[name]:.2f}", f"{table[name] / table[UNIT]:.2f}"]
        out.append(f"| {name} | " + " | ".join(cells) + " |")
    out += [
        "",
        f"The loops are timed on every {EVERY}th head and multiplied; they and the scan at all positions ran",
        "once, the others' numbers are medians of " + " and ".join(str(ROUNDS[n]) for n in LENGTHS) + " rounds.",
        "",
    ]
    out += [f"| peak memory at {MEMORY_TOKENS} tokens | MiB |", "|---|---:|"]
    out += [f"| {name} | {mib:.0f} |" for name, mib in found["peak_mib"].items()]
    out += [
        "",
        "Attribution patching against exact patching of every head at all positions, one pair of prompts:",
        "",
    ]
    out += [
        "| tokens | Pearson r over heads | largest error (logits) | largest effect (logits) |",
        "|---|---:|---:|---:|",
    ]
    out += [
        f"| {n} | {a['pearson']:.3f} | {a['largest_error_logits']:.3f} | {a['largest_effect_logits']:.3f} |"
        for n, a in found["attribution_patching"].items()
    ]
    return "\n".join(out) + "\n"


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(memory_of(sys.argv[1])))
        return
    model = interp.load(MODEL)
    found: dict = {
        "machine": f"CPU with {torch.get_num_threads()} threads, torch {torch.__version__.split('+')[0]}",
        "seconds": {n: time_all(model, n) for n in LENGTHS},
        "attribution_patching": {n: agreement(model, n) for n in LENGTHS[:1]},
        "peak_mib": {},
    }
    del model
    for what in MEMORY:
        done = subprocess.run(
            [sys.executable, "-m", "tests.benchmarks.bench", what], check=True, capture_output=True, text=True
        )
        found["peak_mib"][what] = json.loads(done.stdout.splitlines()[-1])
    (HERE / "results.json").write_text(json.dumps(found, indent=1) + "\n")
    (HERE / "results.md").write_text(markdown(found))
    print(markdown(found))


if __name__ == "__main__":
    main()

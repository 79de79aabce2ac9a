"""`python -m tests.benchmarks.agreement`: the fan-out against TransformerLens, one head at a time, in logits.

Ten tiny random architectures and the real default model; float32. Writes agreement.md beside this file.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import torch

import interp
from interp.interventions.values import Branch, HeadEdit
from tests.tiny import CONFIGS, WINDOW, prompt, tiny
from tests.twins import bridge_loop, bridge_means

HERE = Path(__file__).parent
ABLATIONS = ("zero", "mean_of_others", "mean")
POSITIONS = ("answer", 3, "all")
LENGTHS = {"shorter": WINDOW - 4, "longer": 3 * WINDOW}
EVERY = 10  # of SmolLM2's heads; it has nine in a layer, so that these are not all of one index
QUESTION = "Answer the question with Yes or No.\nQuestion: Can a kettle boil water without any heat?"


def compare(model: interp.Model, length: int) -> tuple[float, list[float]]:
    """Largest difference over ablations, positions and heads, and the effects' sizes, in logits."""
    p, reference = prompt(length), [prompt(length, seed=seed) for seed in (5, 6)]
    differences, effects = [], []
    for how, positions in itertools.product(ABLATIONS, POSITIONS):
        last = {"answer": 1, "all": length}.get(positions, positions)
        means = bridge_means(model, reference, 1 if positions == "answer" else length) if how == "mean" else None
        edits = interp.ablate_each_head(how, reference=reference if how == "mean" else None)
        result = interp.scan(model, [p], edits, positions=positions, method="fan-out")
        expected = bridge_loop(model, p, how, last, means)
        differences.append(np.abs(result.values[0] - expected).max())
        effects += np.abs(expected - result.clean[0]).tolist()
    return float(max(differences)), effects


def smollm2_row() -> str:
    model = interp.load("smollm2-135m")
    p = model.prompt(QUESTION, answers=("No", "Yes"))
    heads = [(layer, head) for layer in range(model.n_layers) for head in range(model.n_heads)][::EVERY]
    branches = [Branch((HeadEdit(*pair),)) for pair in heads]
    result = interp.scan(model, [p], branches, method="fan-out")
    expected = bridge_loop(model, p, "zero", 1, heads=heads)
    difference, effect = np.abs(result.values[0] - expected).max(), np.abs(expected - result.clean[0]).mean()
    return row(f"SmolLM2-135M, {len(p)} tokens, zero at the answer", model, "–", f"{difference:.1e}", effect)


def row(name: str, model: interp.Model, shorter: str, longer: str, effect: float) -> str:
    config = model.hf.config
    groups = getattr(config, "num_key_value_heads", None) or model.n_heads
    kinds = getattr(config, "layer_types", None) or []
    window = getattr(config, "sliding_window", None)
    alternating = "full_attention" in kinds and "sliding_attention" in kinds
    window = "no" if not window or (kinds and "sliding_attention" not in kinds) else f"{window} tokens"
    where = ", some layers" if alternating and window != "no" else ""
    shape = f"{groups} of {model.n_heads}"
    return f"| {name} | {window}{where} | {shape} | {model.d_head} | {shorter} | {longer} | {effect:.2f} |"


def main() -> None:
    lines = [
        "# Fan-out against TransformerLens's own loop",
        "",
        "Made by `python -m tests.benchmarks.agreement`. Largest absolute difference between the two in the logit of "
        "the first answer minus that of the second (logits, float32), over every head, ablations "
        f"({', '.join(ABLATIONS)}) and positions (answer, last 3, all). The loop is one `run_with_hooks` of the "
        f"TransformerBridge for each head. Shorter and longer: prompts of {LENGTHS['shorter']} and "
        f"{LENGTHS['longer']} tokens, below and above the window of {WINDOW}. Mean effect: mean absolute change of "
        "that difference by an ablation, what the numbers beside it are to be held against. The tiny models are "
        f"random, four layers each; of SmolLM2 every {EVERY}th head.",
        "",
        "| model | sliding window | KV groups | head size | shorter | longer | mean effect |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    for name in CONFIGS:
        model = interp.load(tiny(name))
        found = {kind: compare(model, length) for kind, length in LENGTHS.items()}
        effect = np.mean([size for _, effects in found.values() for size in effects])
        lines.append(row(name, model, *(f"{found[kind][0]:.1e}" for kind in ("shorter", "longer")), effect))
        print(lines[-1], flush=True)
    lines.append(smollm2_row())
    (HERE / "agreement.md").write_text("\n".join([*lines, ""]))
    print(lines[-1])


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()

"""`python -m tests.benchmarks.vision_agreement`: models that see, against plain transformers and head by head.

Thirteen tiny random vision-language architectures, float32; about a minute. Writes vision_agreement.md beside this
file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch

import interp
from interp.records.writing import write_atomically
from interp.reports.markdown import markdown
from tests.interp.tiny_vision import NAMES, loaded
from tests.interp.vision.test_vision_models import PICTURES, QUESTIONS, ask, plain_logits

HERE = Path(__file__).parent
POSITIONS = ("answer", "text", "all")
ABLATIONS = ("mean_of_others", "zero", "mean")


def compare(name: str) -> dict[str, object]:
    """One architecture: its logits, and every head ablated in every way and place, by fan-out and by loop."""
    model, twin = loaded(name)
    asked = ask(name)
    plain = torch.stack([plain_logits(twin, q, p) for q, p in zip(QUESTIONS, PICTURES, strict=True)])
    row = {
        "architecture": type(model.hf).__name__,
        "adapter": type(model.bridge.adapter).__name__,
        "logits": float((model.final_logits(asked) - plain).abs().max()),
    }
    effects = []
    for positions in POSITIONS:
        differences = []
        for how in ABLATIONS:
            edits = interp.ablate_each_head(how, reference=asked[1:] if how == "mean" else None)
            fast, slow = (
                interp.scan(model, asked[:1], edits, positions=positions, method=method)
                for method in ("fan-out", "loop")
            )
            differences.append(np.abs(fast.values - slow.values).max())
            effects.append(np.abs(slow.change).mean())
        row[f"scan_at_{positions}"] = float(max(differences))
    return row | {"mean_effect": float(np.mean(effects))}


def main() -> None:
    rows = pd.DataFrame([compare(name) for name in NAMES])
    lines = [
        "# Models that see: against plain transformers, and head by head",
        "",
        "Made by `python -m tests.benchmarks.vision_agreement`. Tiny random models with their processors, four layers "
        "of four heads, float32; each question is about a picture. *logits*: the largest absolute difference, over "
        "three questions and the whole vocabulary, from transformers' own model and processor, which this package has "
        "not touched. *scan at*: the largest absolute difference between the fan-out and one pass for each head, in "
        f"logit(No) - logit(Yes), over every head of the language model and the ablations {', '.join(ABLATIONS)}. "
        "*mean effect*: the mean absolute change of that difference by an ablation.",
        "",
        markdown(rows),
        "",
    ]
    write_atomically(HERE / "vision_agreement.md", lambda path: path.write_text("\n".join(lines), encoding="utf-8"))
    print(rows.to_string())


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()

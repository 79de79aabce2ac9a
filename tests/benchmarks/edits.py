"""Edits of the default model: hooked, folded, and read again by plain transformers, side by side.

    python -m tests.benchmarks.edits [FOLDER OF A FITTED EDIT]

Writes edits.md beside this file: for head scales, a direction and tuned query rows (a fitted edit, if a folder is
given; else rows moved at random), in float64, float32 and bfloat16, the first logits after one prompt, the largest
difference over all logits of the check's prompts, and the time that each step took. One CPU thread.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

import interp
from interp.edits.composed import Edits
from interp.edits.family import ModelEdit
from interp.edits.fold_check import Agreement, agreement, check_prompts, every_logit
from interp.edits.head_rows import TunedHeads, current_rows
from interp.edits.head_scales import ScaledHeads
from interp.edits.identity import describe_model
from interp.edits.steering import add_direction, remove_direction
from interp.reading.residual import residual_states

MODEL = "smollm2-135m"
QUESTION = "Is the sky blue on a clear day? Answer the question with Yes or No."
PLEASED, DISPLEASED = (
    ("What a lovely day!", "I love it.", "Thank you!"),
    ("What a horrid day!", "I hate it.", "Go away!"),
)
N_SHOWN = 5


def difference_of_means(model: interp.Model) -> interp.Direction:
    """From states at the last token of a few pleased and displeased sentences: of a size that people steer by."""
    means = []
    for texts in (PLEASED, DISPLEASED):
        prompts = [model.prompt(text) for text in texts]
        means.append(residual_states(model, prompts, [[len(p) - 1] for p in prompts]).mean(0)[:, 0])
    return interp.Direction(means[0] - means[1], describe_model(model), {"name": "pleased - displeased"})


def moved_rows(model: interp.Model) -> TunedHeads:
    generator = torch.Generator().manual_seed(0)
    rows = []
    for layer, head in ((17, 7), (18, 4), (21, 7)):
        row = current_rows(model, layer, head)
        noise = torch.randn(row.weight.shape, generator=generator).to(row.weight) * row.weight.float().std()
        rows.append(replace(row, weight=row.weight + 0.5 * noise.to(row.weight)))
    return TunedHeads(describe_model(model), {"method": "rows moved at random"}, tuple(rows))


def edits(model: interp.Model, fitted: Path | None) -> dict[str, ModelEdit]:
    direction = difference_of_means(model)
    scales = ScaledHeads(describe_model(model), {}, {(3, 0): 0.0, (17, 7): 0.3, (24, 2): 1.7})
    removed = remove_direction(direction, from_layer=15)
    tuned = moved_rows(model)
    if fitted is not None:
        found = interp.load_edit(fitted)
        # fitted in float32: in another type the same rows, on the same weights
        tuned = found if model.dtype == torch.float32 else found.made_for(describe_model(model))
    return {
        "head scales": scales,
        "direction added": add_direction(direction, 1.0, 15, while_generating=True),
        "direction removed everywhere": removed,
        "tuned query rows" + (" (fitted)" if fitted else " (moved at random)"): tuned,
        "all of these but the addition, one after another": Edits((scales, removed, tuned)),
    }


def measure(model: interp.Model, edit: ModelEdit) -> dict[str, Any]:
    asked, prompts = model.prompt(QUESTION), check_prompts(model)
    clean = every_logit(model, [asked, *prompts])
    with edit.apply(model):
        hooked = every_logit(model, [asked, *prompts])
    before = describe_model(model)["weights_sha256"]
    undo, fold_s = timed(lambda: edit.fold(model))
    folded = every_logit(model, [asked, *prompts])
    undo.fold(model)
    with tempfile.TemporaryDirectory() as folder:
        path, export_s = timed(lambda: edit.export(model, Path(folder) / "edited"))
        plain = AutoModelForCausalLM.from_pretrained(path, dtype="auto").eval()
        reloaded = every_logit(model, [asked, *prompts], plain)
        kind = type(plain).__name__
    return {
        "logits": {name: x[0][-1, :N_SHOWN] for name, x in zip(NAMES, (clean, hooked, folded, reloaded), strict=True)},
        "effect": agreement(clean, hooked, model.dtype),
        "folded": agreement(hooked, folded, model.dtype),
        "reloaded": agreement(hooked, reloaded, model.dtype),
        "restored": describe_model(model)["weights_sha256"] == before,
        "read as": kind,
        "fold_s": fold_s,
        "export_s": export_s,
    }


def told(found: Agreement) -> str:
    return f"{found.difference:.2g} ({found.rms:.1g})"


NAMES = ("untouched", "hooked", "folded", "reloaded")


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    began = time.perf_counter()
    return work(), time.perf_counter() - began


def main(fitted: Path | None) -> None:
    text = [
        "# Edits: hooked, folded, reloaded",
        f"`{MODEL}`, one thread. Folded: written into the weights in memory. Reloaded: exported, and read by plain "
        "`AutoModelForCausalLM.from_pretrained`, with no code of ours. Logits: the first five of the vocabulary, after "
        f"“{QUESTION}”. Differences are those from the hooked model, over all logits at every position of five "
        "prompts: the largest, and in brackets the root mean square as a share of that of the logits. The edit's own "
        "effect is the difference of the hooked model from the untouched one. float64 shows that a fold is exact "
        "(Llama's norms round to float32, so what is far below that is 0): what is left in float32 and bfloat16 is "
        "rounding.",
    ]
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        model = interp.load(MODEL, dtype=dtype)
        text.append(f"## {str(dtype).removeprefix('torch.')}")
        for name, edit in edits(model, fitted).items():
            found = measure(model, edit)
            print(name, found["folded"], found["reloaded"], flush=True)
            rows = ["| | " + " | ".join(f"logit {i}" for i in range(N_SHOWN)) + " |", "|---" * (N_SHOWN + 1) + "|"]
            for way, logits in found["logits"].items():
                rows.append(f"| {way} | " + " | ".join(f"{float(x):.5f}" for x in logits) + " |")
            text += [
                f"### {name}",
                edit.summary(),
                "\n".join(rows),
                f"Differences: folded {told(found['folded'])}, reloaded {told(found['reloaded'])}; the edit's own "
                f"effect {told(found['effect'])}; largest logit {found['folded'].size:.3g}. Read as "
                f"{found['read as']}. Undone, weights are {'' if found['restored'] else 'NOT '}bit for bit as before."
                f" Fold {found['fold_s']:.0f} s, export {found['export_s']:.0f} s.",
            ]
    (Path(__file__).parent / "edits.md").write_text("\n\n".join(text) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)

"""NASA's rivals: LoRA on every head, factors without training, and a constant, which can't change AUROC."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

import numpy as np

from interp.edits import ScaledHeads, TunedHeads, heads_scaled
from interp.figures import head_label
from interp.fitting import LoraTuner
from interp.passes import UpperLayers
from probes.negative_bias.answers import Answers
from probes.negative_bias.corrections import Method, State
from probes.negative_bias.methods import Bench, validation_state

FACTORS = (0.0, 0.5, 1.5)  # tried for each head by the rival that scales


def train_lora(bench: Bench, n_steps: int, n_parameters: int) -> Method:
    """All query and key projections by LoRA, with as many steps as NASA took and at least as many numbers."""
    began, settings, model = time.perf_counter(), bench.settings, bench.model
    rows, before = (), validation_state(bench.untouched)
    best = before
    with LoraTuner(
        model,
        bench.training_prompts,
        rank=settings.lora_rank,
        learning_rate=settings.lora_learning_rate,
        kept=bench.kept,
        seed=settings.seed,
    ) as tuner:
        trained = tuner.n_parameters
        for step, (batch, kept) in enumerate(bench.batches(n_steps, 1000), start=1):
            loss = tuner.step(batch, kept)
            if step % settings.check_every and step < n_steps:
                continue
            now = bench.state(bench.ask())
            bench.note("LoRA", f"rank {settings.lora_rank}", step, "look", now, training_loss=loss)
            if now.improves(best, before, settings):
                best, rows = now, tuner.rows
                if now.closed(settings):
                    break
    edit = TunedHeads(bench.described, {**bench.about, "method": "LoRA", "settings": asdict(settings)}, rows)
    note = f"rank {settings.lora_rank}, {step} steps" + ("" if trained >= n_parameters else ", FEWER numbers than NASA")
    return Method("LoRA", edit, 0.0, trained, time.perf_counter() - began, note, best)


def scale_heads(bench: Bench, heads: Sequence[tuple[int, int]], factors: Sequence[float] = FACTORS) -> Method:
    """A factor for each head's output, found one head after another on the validation questions; nothing is trained."""
    began, model, chosen = time.perf_counter(), bench.model, {}
    best = bench.state(bench.untouched)
    for layer, head in heads:
        if best.closed(bench.settings):
            break
        lower = {place: f for place, f in chosen.items() if place[0] < layer}
        with heads_scaled(model, lower):
            upper = UpperLayers(model, bench.validation_prompts, layer)
            tried: dict[float, State] = {}
            for factor in factors:
                with heads_scaled(model, chosen_above(chosen, layer) | {(layer, head): factor}):
                    tried[factor] = bench.state(bench.answers(upper.all_logits()))
                bench.note("scaled heads", head_label(layer, head), 0, f"factor {factor:g}", tried[factor])
        if better := [f for f in factors if tried[f].improves(best, best, bench.settings)]:
            factor = min(better, key=lambda f: (tried[f].bias, tried[f].loss))
            best, chosen[layer, head] = tried[factor], factor
    edit = ScaledHeads(bench.described, {**bench.about, "method": "scaled heads"}, chosen)
    note = edit.summary() if chosen else "no factor helped"
    return Method("scaled heads", edit, 0.0, len(chosen), time.perf_counter() - began, note, best)


def chosen_above(chosen: Mapping[tuple[int, int], float], layer: int) -> dict[tuple[int, int], float]:
    """The factors of heads in this layer and above: those below act already on what enters the layer."""
    return {place: factor for place, factor in chosen.items() if place[0] >= layer}


def fit_offset(answers: Answers) -> Method:
    """The constant that, added to the margin of Yes, makes the model say Yes as often as it is right to: the honest
    simple rival. It can't change AUROC."""
    began = time.perf_counter()
    margin = np.sort(answers.margin)[::-1]
    n_yes = int(answers.gold.sum())
    offset = float(-(margin[n_yes - 1] + margin[n_yes]) / 2)
    method = Method("constant offset", None, offset, 1, 0.0, f"{offset:+.3f} added to the margin of Yes")
    state = validation_state(method.adjust(answers))
    return replace(method, seconds=time.perf_counter() - began, validation=state)

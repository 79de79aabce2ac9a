"""What it costs to let a guard read along."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from interp.architecture import run_pass
from interp.door import public
from interp.models import Model
from interp.prompts import Prompt, pad_left
from interp.reading import residual_states
from interp.statistics import ratio_estimate
from probes.latent_guard.classifier import LatentGuard
from probes.latent_guard.result import Latency
from probes.requests import Request, build_request_prompts, positions_of


@public
def latency(guard: LatentGuard, requests: Sequence[Request | str], repeats: int = 5) -> Latency:
    """What the guard costs beside a plain prefill: the same pass of one prompt, with and without it reading along.

    Both give the next token's logits; with the guard, one row is copied at each layer, and the decision is made. The
    two run in turn ``repeats`` times after a warm-up; a prompt counts with its medians, the ratio is that of their
    sums, its interval over prompts. Building the prompt is in neither. On a busy machine take more repeats.

    ``requests``: a few that are like those to come.

    Raises:
        ValueError: ``repeats`` below 1, and a model that has changed since the fit.

    Misleads: it is of this machine, as busy as it is, and of these prompts.
    Source: ours.
    """
    guard.require_unchanged()
    if repeats < 1:
        raise ValueError(f"repeats={repeats}; expected 1 or more.")
    model = guard.model
    prompts = build_request_prompts(model, guard.prepared(requests), system=guard.system_)
    at = getattr(positions_of(prompts), guard.position_)

    def plain(prompt: Prompt, positions: list[int]) -> None:
        with torch.no_grad():
            inputs = pad_left([prompt], model.device).inputs
            run_pass(model, {**inputs, "use_cache": False, **model.last_logits_only()})

    def guarded(prompt: Prompt, positions: list[int]) -> None:
        states = residual_states(model, [prompt], [positions])[:, :, 0]
        bool((guard.readout_.scores(states) @ guard.layer_weights_ >= guard.threshold_)[0])

    def ms(run: Callable[[Prompt, list[int]], None], i: int) -> float:
        began = _now(model)
        run(prompts[i], at[i])
        return 1000 * (_now(model) - began)

    ms(plain, 0)
    ms(guarded, 0)
    took = np.full((len(prompts), repeats, 2), np.nan)
    for i in range(len(prompts)):
        for repeat in range(repeats):
            for which in (0, 1) if repeat % 2 else (1, 0):
                took[i, repeat, which] = ms((plain, guarded)[which], i)
    medians = np.median(took, axis=1)  # [prompt, which]
    return Latency(len(prompts), repeats, *map(float, medians.mean(0)), *ratio_estimate(medians[:, 1], medians[:, 0]))


def _now(model: Model) -> float:
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    return time.perf_counter()

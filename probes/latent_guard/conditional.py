"""A guard and a steering in one edit: steer only where the guard's reading of the request passes its threshold."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.door import public
from interp.edits import Condition, ConditionalSteering, Steering
from probes.latent_guard.classifier import LatentGuard, harmful
from probes.latent_guard.readouts import ClusterReadout
from probes.latent_guard.rules import best_threshold
from probes.requests import Request, build_request_prompts, positions_of, require_disjoint, require_requests


class ConditionWarning(UserWarning):
    """A condition that holds for every request of the validation, or for none."""


@public
def conditional_steering(
    guard: LatentGuard,
    steering: Steering,
    validation: Sequence[Request],
    *,
    layers: int | Sequence[int] | None = None,
    most_harmless: float | None = None,
) -> ConditionalSteering:
    """The steering, on requests that the guard calls harmful: one edit, saved and applied as any.

    The guard reads at the token that it was fitted at, in the pass that is steered, so it must read before the steering
    begins. A request is read as it comes: end it as the guard's were (:meth:`LatentGuard.prepared`).

    Args:
        guard: a fitted one.
        steering: what is done to requests that it flags; it begins at the guard's last layer or later.
        validation: requests of both kinds that the guard was not fitted on. How often the condition holds there is kept
            in ``about`` and said in the summary.
        layers: read the guard's readout at these layers alone (the mean over them), with the threshold of the best
            balanced accuracy on the validation; None: its own layers and threshold.
        most_harmless: choose the threshold so that at most this share of the harmless validation requests is steered.

    Raises:
        ValueError: a guard of other weights than the steering's, one that reads later than the steering begins,
            requests that it was fitted on, layers that it does not have, and a share outside of 0 to 1.

    Cost: a pass over the validation requests.
    Misleads: warns (:class:`ConditionWarning`) where the condition holds for none or for all of the validation; outside
        of the domain of the fitted requests a guard is much worse.
    Source: arXiv 2409.05907, with the guard of arXiv 2507.11878 as the condition; the threshold's choice is ours.
    """
    guard.require_unchanged()
    require_requests(validation)
    require_disjoint(guard.fitted_on_, validation)
    if most_harmless is not None and not 0 <= most_harmless < 1:
        raise ValueError(f"most_harmless={most_harmless}; expected a share from 0 to below 1.")
    asked = guard.prepared(validation)
    prompts = build_request_prompts(guard.model, asked, system=guard.system_)
    t_inst = positions_of(prompts).t_inst[0][0]
    tail = prompts[0].token_ids[t_inst + 1 :]
    vectors, threshold, normed = _linear(guard, layers)
    back = len(tail) if guard.position_ == "t_inst" else 0
    condition = Condition(vectors, threshold, tail, back, normed, guard.model_)
    ConditionalSteering(condition, steering)  # refuses what does not go together, before a pass
    margins, is_harmful = condition.readings(guard.model, prompts, guard.batch_size), harmful(asked)
    if layers is not None or most_harmless is not None:
        moved = _threshold(margins, is_harmful, most_harmless)
        condition, margins = replace(condition, threshold=threshold + moved), margins - moved
    held = margins >= 0
    about = {"held": _said(held, is_harmful), "guard": guard.sha256, "position": guard.position_, "rule": guard.rule_}
    if held.all() or not held.any():
        warnings.warn(
            f"the condition holds for {held.mean():.0%} of {len(held)} validation requests ({about['held']}): it "
            f"{'always' if held.all() else 'never'} steers. Read other layers, or fit the guard on such requests.",
            ConditionWarning,
            stacklevel=2,
        )
    return ConditionalSteering(replace(condition, about=about), steering)


def _linear(
    guard: LatentGuard, layers: int | Sequence[int] | None
) -> tuple[dict[int, Float[Tensor, " d_model"]], float, bool]:
    """A guard as vectors of layers, a threshold, and whether states are taken to length 1: its decision is their sum
    less the threshold."""
    readout, n_layers = guard.readout_, len(guard.layer_weights_)
    weights = torch.from_numpy(np.asarray(guard.layer_weights_, dtype=float))
    threshold = float(guard.threshold_)
    if layers is not None:
        chosen = [layers] if isinstance(layers, int) else list(layers)
        if not chosen or min(chosen) < 0 or max(chosen) >= n_layers or len(set(chosen)) < len(chosen):
            raise ValueError(f"layers={layers!r}; expected distinct numbers from 0 to {n_layers - 1}, one at least.")
        weights, threshold = torch.zeros(n_layers, dtype=torch.float64), 0.0
        weights[chosen] = 1 / len(chosen)
    if isinstance(readout, ClusterReadout):
        unit = torch.nn.functional.normalize(readout.means.double(), dim=-1)
        rows, offsets = unit[0] - unit[1], torch.zeros(n_layers, dtype=torch.float64)
    else:
        rows, offsets = readout.slopes.double(), readout.intercepts.double()
    vectors = {layer: (weights[layer] * rows[layer]).float() for layer in range(n_layers) if weights[layer]}
    return vectors, threshold - float(weights @ offsets), isinstance(readout, ClusterReadout)


def _threshold(
    scores: Float[np.ndarray, " example"], is_harmful: Bool[np.ndarray, " example"], most_harmless: float | None
) -> float:
    if most_harmless is None:
        return best_threshold(scores, is_harmful)
    harmless = np.sort(scores[~is_harmful])
    allowed = int(most_harmless * len(harmless) + 1e-9)  # so many of the highest may pass
    highest = harmless[len(harmless) - allowed - 1] if allowed < len(harmless) else -np.inf
    above = scores[scores > highest]
    return float((highest + above.min()) / 2 if len(above) else np.nextafter(highest, np.inf))


def _said(held: Bool[np.ndarray, " example"], is_harmful: Bool[np.ndarray, " example"]) -> str:
    kinds = (("harmful", is_harmful), ("harmless", ~is_harmful))
    return ", ".join(f"{held[of].mean():.0%} of {of.sum()} {kind} requests" for kind, of in kinds if of.any())

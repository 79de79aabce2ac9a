"""Which heads write the refusal direction at t_post, and which the harmfulness direction at t_inst?

The directions are those of "LLMs Encode Harmfulness and Refusal Separately" (Zhao et al. 2025, arXiv 2507.11878,
Eq. 5), which asks nothing of heads. A head is a writer if it puts more of the direction into the residual stream on a
harmful request than on a harmless one. So an example is a *pair* of requests, and its score the difference within it:
swapping the labels of a pair turns its sign, which is what the sign-flip test tries, and what both requests share (the
template, the wording, a head's constant output) cancels.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.door import public
from interp.interventions import ablate_each_head
from interp.models import Model
from interp.prompts import Prompt
from interp.rankings import HeadRanking, Measure, register
from interp.reading import LogitDifference, kinds_beside
from interp.records import Kept, keeps_work
from interp.scans import scan_projection, write_along
from interp.scans.scan import scan
from interp.statistics import auroc, mean_interval
from probes.harmfulness.directions.controls import balanced_half, controls_of
from probes.harmfulness.directions.first_tokens import Openings
from probes.harmfulness.directions.openings import find_openings, openings_of
from probes.harmfulness.directions.result import HarmfulDirections
from probes.heads import check_once
from probes.requests import (
    CITATIONS as PAPER,
    Behaviour,
    Request,
    build_request_prompts,
    describe_requests,
    require_at_least,
    require_disjoint,
    require_requests,
    until_instruction_end,
)
from probes.studies import Study, mass_read

Which = Literal["refusal", "harmfulness"]
N_SPLITS = 20
CITATIONS = [
    *PAPER,
    "Direct contributions of heads after Elhage et al. (2021), A Mathematical Framework for Transformer Circuits; "
    "effects at the answer: exact ablations by headscope's fan-out scan.",
]
CAVEATS = [
    "A direct contribution is along one direction at one layer: a head that writes what later layers turn into the "
    "direction has none. Its effect has that too, but not what other heads take over when it is missing.",
    "Heads at or above the read layer write nothing below it: their direct contribution (and for harmfulness their "
    "effect) is 0 and their p is 1 by construction. They count in q and in the reliability of the order.",
    "A difference of means holds whatever differs between the classes: where topics do, heads that write topic rank "
    "high.",
]
_STREAM, _NOTHING = "units of the residual stream", "writes as much on both"
MEASURES = tuple(
    register(Measure(name, meaning, unit=unit, null_is=null_is, higher=higher))
    for name, meaning, unit, null_is, higher in (
        (
            "direct",
            "What the head writes along the unit {which} direction of layer {layer}, harmful minus harmless request of "
            "a pair (units of the residual stream): above 0, more on harmful ones; 0 at and above that layer.",
            _STREAM,
            _NOTHING,
            "writes {which} on harmful requests",
        ),
        (
            "direct_orthogonal",
            "The same along the part of the direction that is orthogonal to the {other} direction: a head that writes "
            "{which} and not merely {other} keeps its sign.",
            _STREAM,
            _NOTHING,
            "writes {which} on harmful requests",
        ),
        (
            "direct_random",
            "The same along a random direction of the same length: noise.",
            _STREAM,
            _NOTHING,
            "nothing: noise",
        ),
        (
            "direct_shuffled",
            "The same along a difference of means of shuffled labels, of the same length: noise with the shape of the "
            "states.",
            _STREAM,
            _NOTHING,
            "nothing: noise",
        ),
        (
            "direct_harmless",
            "What the head writes along the direction on the harmless request of a pair alone.",
            _STREAM,
            "writes nothing along it",
            "writes {which}, whatever is asked",
        ),
        (
            "effect",
            "Harmful minus harmless request of a pair, {zeroing}: above 0, the head pushes toward {which} more on "
            "harmful ones.",
            "{effect_unit}",
            "does as much on both",
            "pushes toward {which} on harmful requests",
        ),
        (
            "effect_harmless",
            "On the harmless request of a pair alone, {zeroing}.",
            "{effect_unit}",
            "ablation changes nothing",
            "pushes toward {which}, whatever is asked",
        ),
    )
)


@public
@keeps_work
def rank_writers(
    model: Model,
    requests: Sequence[Request],
    directions: HarmfulDirections,
    which: Which = "refusal",
    layer: int | None = None,
    *,
    openings: Openings | Behaviour | None = None,
    seed: int = 0,
    batch_size: int = 4,
    keep: Kept = None,
) -> HeadRanking:
    """Rank every head by how much more of a direction it writes on harmful than on harmless requests.

    An example is a harmful and a harmless request: those joined by ``pair``, the others at random; where the directions
    were matched in their last token, so is each pair. Requests without a partner are left out. The position is the
    direction's own, t_post (refusal) or t_inst (harmfulness).

    Args:
        model: the one that the directions are of.
        requests: of both kinds, none of which the directions were fitted on.
        directions: their system prompt and positions are used.
        which: the direction, "refusal" or "harmfulness".
        layer: where the state is read (the input of block ``layer``); None: :func:`strongest_layer`, chosen on the
            directions' own requests. Better the layer at which steering acts.
        openings: for refusal, token sets, or a behaviour of this model to find them on (:func:`find_openings`); None:
            found on the requests that the directions were fitted on.
        seed: of the pairs at random, and of the random and shuffled directions.
        batch_size: pairs in one batch.
        keep: where the work and the ranking are kept.

    Raises:
        ValueError: requests that the directions were fitted on (listed), fewer than 10 pairs, directions of other
            weights, a layer without heads below it, and token sets that can't be found.

    Measures, each a difference within the pair unless said otherwise:

    - ``direct`` (ranked): what the head writes along the unit direction, in units of the residual stream. Summed over
      the heads, MLPs and embedding it is the difference of the two states there (``contrast`` in the provenance).
    - ``direct_orthogonal`` (the control): along the part of the direction that the other one has no share in. A head
      that writes refusal, and not merely harmfulness, keeps its sign. Left out where nothing remains.
    - ``direct_random``, ``direct_shuffled``: along a random direction, and along a difference of means of the same
      requests with labels shuffled within each class; both of length 1, as the direction. The noise floor: a writer
      stands above it.
    - ``effect``: exact, by zeroing the head at that position alone. For refusal: on the log odds of ``openings`` at
      the answer (logits). For harmfulness t_inst is not where replies begin, so the effect is on the projection itself,
      on prompts that end at t_inst (where states are those of the whole prompt): what the head writes and what heads
      and MLPs up to the read layer make of it, in the units of ``direct``.
    - ``direct_harmless``, ``effect_harmless``: the same on the harmless request alone. Added to the difference they
      give the harmful one's.

    Cost: about seven forward passes for each pair. Misleads where harmful and harmless requests differ in topic: heads
    that write topic rank high.
    Source: direct contributions after Elhage et al. (2021); the directions of arXiv 2507.11878; effects and controls
    are ours.
    """
    direction, layer, chosen_by = _where(model, directions, which, layer)
    require_requests(requests)
    require_disjoint(directions.states.requests, requests)
    asking, matched = directions.asking, directions.provenance["settings"]["matched"]
    prompts = build_request_prompts(model, requests, **asking)
    if which == "harmfulness":
        prompts = [until_instruction_end(p) for p in prompts]
    pairs, n_twins = _pairs(requests, prompts, matched, seed)
    settings: dict[str, Any] = {"which": which, "layer": layer, "directions": directions.provenance["run_id"]}
    settings |= asking | {"matched": matched, "seed": seed}
    if which == "refusal":
        if openings is None:
            fitted = build_request_prompts(model, directions.states.requests, **asking)
            openings = find_openings(model, fitted, ["refused" if p else "accepted" for p in directions.positive])
        elif isinstance(openings, Behaviour):
            openings = openings_of(model, openings, asking)
        settings["openings"] = {name: list(tokens) for name, tokens in openings.answers.items()}
        prompts = openings.on(prompts)
    paired = [requests[i] for pair in pairs for i in pair]
    data = describe_requests(paired) | {"n": len(pairs), "n_left_out": len(requests) - len(paired)}
    study = Study(
        f"{which.capitalize()} writers",
        model,
        prompts,
        data=data | {"n_twins": n_twins},
        settings=settings,
        batch_size=batch_size,
        keep=keep,
        citation=CITATIONS,
        caveats=CAVEATS,
    )
    if study.found is not None:
        return study.found
    items = [(prompts[i], prompts[j]) for i, j in pairs]
    mass = mass_read(model, prompts, batch_size=batch_size) if which == "refusal" else {}
    scorer = _Scorer(model, [p for pair in items for p in pair], _vectors(directions, which, layer, seed), layer, which)
    arrays = study.run(items, scorer)
    more: dict[str, Any] = {
        "read": {
            "direction": which,
            "position": direction.about.get("position", ""),
            "layer": layer,
            "layer_chosen_by": chosen_by,
            "length_of_direction": round(float(direction.norms()[layer]), 4),
        },
        "contrast": _contrast(arrays["contrast"]),
        "noise_floor": _noise_floor(arrays),
        "scan": {"how": scorer.how, "check": scorer.check},
        **kinds_beside(model),
    }
    if which == "refusal":
        more["openings"] = openings.shown(model)
        more |= mass
        more["behaviour"] = _behaviour(arrays["clean"])
    names = [name for name in _descriptions(which, layer) if name in arrays]
    ranking = HeadRanking(
        score="direct",
        measures={name: arrays[name].astype(np.float32) for name in names},
        controls=tuple(name for name in names if name == "direct_orthogonal"),
        example_ids=tuple(f"{requests[i].id} - {requests[j].id}" for i, j in pairs),
        descriptions={name: _descriptions(which, layer)[name] for name in names},
        provenance=study.provenance(
            method=f"what each head writes along the {which} direction at layer {layer}, harmful minus harmless, and "
            "its zero ablation",
            **more,
        ),
    )
    return study.done(ranking)


def strongest_layer(directions: HarmfulDirections, which: Which) -> int:
    """The layer whose direction tells the fitted classes apart best: the largest difference of means over pooled
    standard deviation (Cohen's d) of projections on a direction fitted on the other half, mean of 20 random splits. It
    says where the classes are far apart, not where that is used."""
    x = directions.states.at("t_post" if which == "refusal" else "t_inst").transpose(0, 1).double()
    rng, total = np.random.default_rng(0), torch.zeros(len(x), dtype=torch.float64)
    for _ in range(N_SPLITS):
        first = balanced_half(directions.positive, rng)
        for half in (first, ~first):
            above, below = (torch.from_numpy(half & of) for of in (directions.positive, ~directions.positive))
            v = x[:, above].mean(1) - x[:, below].mean(1)
            up, down = (
                torch.einsum("lnd,ld->ln", x[:, torch.from_numpy(~half & of)], v)
                for of in (directions.positive, ~directions.positive)
            )
            spread = ((up.var(1) + down.var(1)) / 2).sqrt()
            total += torch.where(spread > 0, (up.mean(1) - down.mean(1)) / spread, -torch.inf)
    return 1 + int(total[1:].argmax())


class _Scorer:
    """Scores of pairs of prompts, batch by batch; how effects are to be scanned is found out once, on all prompts."""

    def __init__(self, model: Model, prompts: Sequence[Prompt], vectors: Mapping[str, Tensor], layer: int, which: str):
        self.model, self.vectors, self.layer = model, vectors, layer
        self.metric = LogitDifference("refusing", "accepting") if which == "refusal" else None
        self.branches = ablate_each_head("zero").branches(model)
        if self.metric is not None:
            self.how, self.check = check_once(model, prompts, self.branches, self.metric, "answer")
        else:
            picked = np.unique(np.linspace(0, layer * model.n_heads - 1, 3).astype(int))  # below the layer
            tried, ends = [self.branches[i] for i in picked], [prompts[0], max(prompts, key=len)]
            checked = scan_projection(model, ends, tried, vectors["direct"], layer)
            self.how, self.check = checked.how, checked.check

    def __call__(self, batch: Sequence[tuple[Prompt, Prompt]]) -> dict[str, np.ndarray]:
        prompts, n = [p for side in zip(*batch, strict=True) for p in side], len(batch)
        writing = write_along(self.model, prompts, torch.stack(list(self.vectors.values())), batch_size=len(prompts))
        heads = writing.heads.copy()
        heads[:, :, self.layer :] = 0
        found = {name: heads[:n, i] - heads[n:, i] for i, name in enumerate(self.vectors)}
        parts = [
            writing.projections[:, 0, self.layer],
            heads[:, 0].sum((1, 2)),
            writing.mlps[:, 0, : self.layer].sum(1),
            writing.attention_biases[:, 0, : self.layer].sum(1),
            writing.embedding[:, 0],
        ]
        contrast = np.stack(parts, 1)
        if self.metric is not None:
            scanned = scan(self.model, prompts, self.branches, metric=self.metric, method=self.how, check=0)
        else:
            scanned = scan_projection(
                self.model, prompts, self.branches, self.vectors["direct"], self.layer, method=self.how, check=0
            )
        effect = scanned.drop.reshape(2 * n, self.model.n_layers, self.model.n_heads)
        return found | {
            "direct_harmless": heads[n:, 0],
            "effect": effect[:n] - effect[n:],
            "effect_harmless": effect[n:],
            "contrast": contrast[:n] - contrast[n:],
            "clean": np.stack([scanned.clean[:n], scanned.clean[n:]], 1),
        }


def _where(model: Model, directions: HarmfulDirections, which: str, layer: int | None):
    """The direction, the layer that it is read at, and how that was chosen."""
    if which not in ("refusal", "harmfulness"):
        raise ValueError(f"which={which!r}; expected 'refusal' or 'harmfulness'.")
    direction = directions.direction(which)
    direction.require_fits(model)
    chosen_by = "the caller" if layer is not None else "held-out halves of the requests that made the direction"
    layer = strongest_layer(directions, which) if layer is None else layer
    if not 1 <= layer <= model.n_layers:
        raise ValueError(
            f"layer={layer}; expected 1 to {model.n_layers}: the state is read at the input of that block "
            f"({model.n_layers}: the last one's output), and heads below it write it."
        )
    if not direction.norms()[layer] > 0:
        raise ValueError(f"the {which} direction is zero at layer {layer}; read it at another.")
    return direction, layer, chosen_by


def _vectors(
    directions: HarmfulDirections, which: Which, layer: int, seed: int
) -> dict[str, Float[Tensor, " d_model"]]:
    """The unit direction and its controls, by the measure that each one gives."""
    direction = directions.direction(which)
    other = directions.direction("harmfulness" if which == "refusal" else "refusal")
    left = direction.orthogonal_to(other)
    found = {"direct": direction.unit().vectors[layer]}
    if left.norms()[layer] > 1e-3 * direction.norms()[layer]:
        found["direct_orthogonal"] = left.unit().vectors[layer]
    noise, shuffled = (
        control.unit().vectors[layer] for control in controls_of(directions, which, 1, seed=seed).values()
    )
    return found | {"direct_random": noise, "direct_shuffled": shuffled}


def _pairs(
    requests: Sequence[Request], prompts: Sequence[Prompt], matched: bool, seed: int
) -> tuple[list[tuple[int, int]], int]:
    """(harmful, harmless) as numbers of requests: twins first, the rest at random; and how many are twins."""
    end = [p.token_ids[p.instruction_end] if matched else 0 for p in prompts]
    rng, rest, pairs = random.Random(seed), list(range(len(requests))), []
    n_twins = 0
    for twins in (True, False):
        groups: dict[Any, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
        for i in rest:
            if not twins or requests[i].pair:
                groups[requests[i].pair if twins else "", end[i]][requests[i].is_harmful].append(i)
        for harmless, harmful in groups.values():
            if not twins:
                rng.shuffle(harmless)
                rng.shuffle(harmful)
            pairs += zip(harmful, harmless, strict=False)
        taken = {i for pair in pairs for i in pair}
        rest = [i for i in rest if i not in taken]
        n_twins = len(pairs) if twins else n_twins
    kinds = Counter(r.kind for r in requests)
    require_at_least(
        len(pairs),
        f"pairs of a harmful and a harmless request from {kinds['harmful']} harmful and {kinds['harmless']} harmless "
        "ones",
        ". Both of a pair end in the same token: end them alike first (with_ending)" if matched else "",
    )
    return sorted(pairs), n_twins


def _contrast(parts: Float[np.ndarray, "example 5"]) -> dict[str, Any]:
    """Mean difference within pairs of the state's projection, and what wrote it."""
    total, *rest = parts.astype(np.float64).mean(0)
    low, high = mean_interval(parts[:, 0])
    written = dict(zip(("heads", "mlps", "attention_biases", "embedding"), rest, strict=True))
    found = {"total": total, "total_ci_low": float(low), "total_ci_high": float(high)} | written
    return {name: round(float(value), 4) for name, value in found.items()}


def _noise_floor(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The largest mean of any head along the control directions, and how many heads write more along the real one."""
    size = {name: np.abs(arrays[name].mean(0)) for name in ("direct", "direct_random", "direct_shuffled")}
    floor = {name: float(size[name].max()) for name in ("direct_random", "direct_shuffled")}
    above = int((size["direct"] > max(floor.values())).sum())
    return {f"largest_{name}": round(value, 4) for name, value in floor.items()} | {"heads_above_both": above}


def _behaviour(clean: Float[np.ndarray, "example 2"]) -> dict[str, Any]:
    """Log odds of refusing of the unedited model, and how well they tell harmful requests from harmless ones."""
    harmful, harmless = clean.T
    told = auroc([*harmful, *harmless], [True] * len(harmful) + [False] * len(harmless))
    return {
        "mean_log_odds_of_refusing_harmful": round(float(harmful.mean()), 4),
        "mean_log_odds_of_refusing_harmless": round(float(harmless.mean()), 4),
        "share_of_harmful_above_0": round(float((harmful > 0).mean()), 4),
        "share_of_harmless_above_0": round(float((harmless > 0).mean()), 4),
        "auroc": round(float(told), 4),
    }


def _descriptions(which: str, layer: int) -> dict[str, Measure]:
    """What each measure is, in the order of the table's columns."""
    other, position = ("harmfulness", "t_post") if which == "refusal" else ("refusal", "t_inst")
    unit = "logits" if which == "refusal" else "units of the residual stream"
    zeroing = f"what zeroing the head at {position} takes (clean minus ablated) from the "
    zeroing += (
        "log odds of a refusing against an accepting first token (logits)"
        if which == "refusal"
        else f"projection of the state at layer {layer}, through every path (units of the residual stream)"
    )
    words = {"which": which, "other": other, "layer": str(layer), "zeroing": zeroing, "effect_unit": unit}
    return {measure.name: measure.worded(**words) for measure in MEASURES}

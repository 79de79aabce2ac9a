"""Two directions, fitted: harmfulness, read at t_inst, and refusal, read at t_post.

After "LLMs Encode Harmfulness and Refusal Separately" (Zhao et al. 2025, arXiv 2507.11878), Eq. 5. Ours: prompts
matched in their last token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Int

from interp.door import public
from interp.edits import Direction
from interp.models import Model
from interp.prompts import System
from interp.records import Kept, keeps_work
from probes.harmfulness.directions.means import POSITIONS, Means, mean_state
from probes.harmfulness.directions.result import HarmfulDirections, HeldOut
from probes.requests import (
    CITATIONS,
    LEAST_REQUESTS,
    Request,
    build_request_prompts,
    describe_requests,
    is_confounded,
    read_states,
    require_at_least,
    require_disjoint,
    require_requests,
    same_ending,
    whole_pairs,
    with_ending,
)
from probes.studies import Study

MATCHED, PAPER = "endings matched", "as they come (paper)"

CAVEATS = [
    "A class difference at t_inst is partly one of last tokens unless these are matched: see the AUROC at layer 0.",
    "Where words alone (TF-IDF) separate the classes, a direction that does may be one of topic, not of harm.",
    "The two directions share examples and a template: their cosine is to be read against its ceiling.",
]


@public
@keeps_work
def fit_directions(
    model: Model,
    positive: Sequence[Request],
    negative: Sequence[Request],
    *,
    pairs: bool = True,
    matched: bool = True,
    system: System = None,
    post_instruction: bool = True,
    batch_size: int = 16,
    keep: Kept = None,
) -> HarmfulDirections:
    """Differences of class means (Eq. 5): harmful, refused requests against harmless, accepted ones.

    Args:
        model: an instruction-tuned one.
        positive: harmful requests; the paper's are those that it refuses.
        negative: harmless requests; the paper's are those that it accepts.
        pairs: leave out a request whose twin is not in the other class, where at least 10 whole pairs remain. Over
            whole pairs the difference of means is the mean of the pairs' differences, in which what twins share falls
            away; chosen by what the model does with each, the pairs break.
        matched: leave out requests whose last token is not the common one, so that the embedding at t_inst can't tell
            the classes apart (end them alike first: :func:`probes.requests.with_ending`); the paper's raw condition is
            False.
        system: the system prompt; None: the template's own, False: none.
        post_instruction: False ends each prompt at t_inst; t_post is then the same token.
        batch_size: prompts in one pass.
        keep: where the report and the result are kept, with the states (180 kB a request for 24 layers of 896).

    Raises:
        ValueError: fewer than 10 requests in a class (after matching), repeated ids, and a model without chat template.
        FloatingPointError: states that are not finite.

    Cost: one forward pass for each batch.

    Misleads where the classes differ in more than harm (topic, length, ending): see ``is_confounded`` and the baselines
    of :meth:`HarmfulDirections.test`.
    Source: arXiv 2507.11878, Eq. 5.
    """
    requests = [*positive, *negative]
    require_requests(requests)
    chat: dict[str, Any] = {"system": system, "post_instruction": post_instruction}
    prompts = build_request_prompts(model, requests, **chat)
    same = np.array(same_ending(prompts))
    used = np.flatnonzero(same | (not matched))
    is_positive = used < len(positive)
    n_odd = int((~same).sum())
    left = f"; {n_odd} of all were left out for another last token (with_ending, or matched=False)"
    for name, n in (("positive", is_positive.sum()), ("negative", (~is_positive).sum())):
        require_at_least(n, f"{name} requests", left if matched and n_odd else "")
    if pairs:
        used, n_all = _without_halves(requests, used), len(used)
        n_halves, is_positive = n_all - len(used), used < len(positive)
    requests, prompts = [requests[i] for i in used], [prompts[i] for i in used]
    data = describe_requests(requests)
    data |= {"n_positive": int(is_positive.sum()), "n_other_ending": n_odd}
    data |= {"n_pairs": len(whole_pairs(requests)) // 2, "n_without_twin": n_halves if pairs else 0}
    study = Study(
        "Harmfulness and refusal directions",
        model,
        prompts,
        data=data,
        settings={"pairs": pairs, "matched": matched, **chat},
        batch_size=batch_size,
        keep=keep,
        citation=CITATIONS,
        caveats=CAVEATS,
        need_mib=20 + len(requests) * 2 * (model.n_layers + 1) * model.d_model * 4 / 2**20,
    )
    if (found := study.found) is not None:
        return replace(found, states=replace(found.states, requests=tuple(requests)))
    states = read_states(model, requests, **chat, batch_size=batch_size)
    mask = torch.from_numpy(is_positive)
    means = Means(*(mean_state(x[m]) for x in (states.t_inst, states.t_post) for m in (mask, ~mask)))
    provenance, layer0 = study.provenance(), states.layer0_auroc(is_positive)
    about = {"run_id": study.id, "data_sha256": data["sha256"], "n": len(states), "matched": matched, **chat}
    about |= {"layer0_auroc": layer0, "confounded": is_confounded(layer0)}
    made = []
    for name, position in POSITIONS.items():
        above, below = means.of(name)
        made.append(Direction(above - below, provenance["model"], {"name": name, "position": position, **about}))
    return study.done(HarmfulDirections(made[0], made[1], means, states, is_positive, provenance))


@public
def compare_protocols(
    model: Model,
    positive: Sequence[Request],
    negative: Sequence[Request],
    tested: Sequence[Request],
    *,
    groups: Sequence[str] | None = None,
    system: System = None,
    batch_size: int = 16,
) -> dict[str, HeldOut]:
    """The directions, and what they say of other requests, with all endings made alike and as the paper has it.

    Args:
        model: an instruction-tuned one.
        positive: harmful requests that it refuses, to fit on.
        negative: harmless requests that it accepts, to fit on.
        tested: other requests of both kinds.
        groups: of the tested requests, as :meth:`HarmfulDirections.test` takes them.
        system: the system prompt; None: the template's own, False: none.
        batch_size: prompts in one pass.

    Returns:
        "endings matched" and "as they come (paper)", for :meth:`HarmfulDirections.to_findings`.

    Raises:
        ValueError: as :func:`fit_directions` and :meth:`HarmfulDirections.test`.

    Cost: two forward passes for each request.
    Misleads: "as they come (paper)" tells full stops apart where the sets end differently: read ``layer0_auroc``.
    Source: arXiv 2507.11878; with endings made alike, ours.
    """
    require_disjoint([*positive, *negative], tested)
    found = {}
    for condition, matched in ((MATCHED, True), (PAPER, False)):
        ended = with_ending if matched else list
        directions = fit_directions(
            model, ended(positive), ended(negative), matched=matched, system=system, batch_size=batch_size
        )
        states = read_states(model, ended(tested), system=system, batch_size=batch_size)
        kept = np.flatnonzero(states.same_ending | (not matched))
        named = [groups[i] for i in kept] if groups is not None else None
        found[condition] = directions.test(states.select(kept), named)
    return found


def _without_halves(requests: Sequence[Request], used: Int[np.ndarray, " used"]) -> Int[np.ndarray, " kept"]:
    """Of the requests that are used, those that have no pair or have it whole; all, where fewer than 10 pairs are."""
    whole = {r.id for r in whole_pairs([requests[i] for i in used])}
    if len(whole) < 2 * LEAST_REQUESTS:
        return used
    return np.array([i for i in used if not requests[i].pair or requests[i].id in whole])

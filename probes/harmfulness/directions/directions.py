"""Two directions: harmfulness, read at t_inst, and refusal, read at t_post; how separate they are, and what they say.

After "LLMs Encode Harmfulness and Refusal Separately" (Zhao et al. 2025, arXiv 2507.11878), Eqs. 2 to 5. Ours: prompts
matched in their last token, the embedding as a control, intervals, the split-half ceiling of the cosine, and the
baselines that see the text alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.door import made_by, public
from interp.door.brief import brief
from interp.edits import Direction
from interp.models import Model
from interp.prompts import System
from interp.records import Kept, keeps_work
from interp.reports import Findings, Result
from probes.harmfulness.directions.agreement import Agreement, agreement
from probes.harmfulness.directions.means import POSITIONS, Means, mean_state, position_of
from probes.requests import (
    CITATIONS,
    LEAST_REQUESTS,
    Request,
    RequestStates,
    build_request_prompts,
    describe_requests,
    is_confounded,
    read_states,
    require_at_least,
    require_disjoint,
    require_requests,
    same_ending,
    separation,
    surface_baselines,
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


@made_by("fit_directions(model, refused, accepted)")
@dataclass(frozen=True, eq=False, repr=False)
class HarmfulDirections(Result, report="probes.harmfulness.directions.report"):
    """Two directions, the means that they are differences of, and the states that they were fitted on.

    Args:
        harmfulness: at t_inst, the mean of harmful requests less that of harmless ones [layer, d_model].
        refusal: at t_post, the mean of refused requests less that of accepted ones [layer, d_model].
        means: the four means.
        states: those of the requests of the fit.
        positive: which of these are harmful (and refused) [example]; the others are harmless (and accepted).
        provenance: what was run, on what.
    """

    harmfulness: Direction
    refusal: Direction
    means: Means
    states: RequestStates
    positive: Bool[np.ndarray, " example"]
    provenance: Mapping[str, Any]

    def direction(self, name: str) -> Direction:
        """The direction called ``name``: ``"harmfulness"`` or ``"refusal"``. Raises ``ValueError`` for another name."""
        return self.harmfulness if position_of(name) == "t_inst" else self.refusal

    @property
    def asking(self) -> dict[str, Any]:
        """``system`` and ``post_instruction`` of the prompts that made these, so that others are asked alike."""
        return {name: self.provenance["settings"][name] for name in ("system", "post_instruction")}

    @cached_property
    def layer0_auroc(self) -> float:
        """How well the embedding at t_inst alone tells the two classes of the fit apart (cross-validated)."""
        return self.states.layer0_auroc(self.positive)

    @property
    def is_confounded(self) -> bool:
        """Whether it tells them apart so well that ``harmfulness`` may be a direction of last tokens."""
        return is_confounded(self.layer0_auroc)

    @cached_property
    def agreement(self) -> Agreement:
        """How close the two directions are: :func:`probes.harmfulness.directions.agreement.agreement`, harmfulness the
        first."""
        return agreement(self.states.t_inst, self.states.t_post, self.positive)

    def cosine(self) -> pd.DataFrame:
        """Cosine of the two directions by layer, with its interval and ceiling (:class:`Agreement`; those of each are
        ``ceiling_harmfulness`` and ``ceiling_refusal``), layer0_auroc and confounded."""
        table = self.agreement.by_layer.assign(layer0_auroc=self.layer0_auroc, confounded=self.is_confounded)
        return table.rename(columns={"ceiling_first": "ceiling_harmfulness", "ceiling_second": "ceiling_refusal"})

    def scores(self, states: RequestStates, name: str) -> Float[np.ndarray, "example layer"]:
        """Cluster score of Eq. 2: cosine with the mean of harmful (refused) requests less cosine with that of harmless
        (accepted) ones, at t_inst (t_post). Above 0: harmful (refused). States are not centred, so scores are small.

        ``states``: of requests that were asked alike (:attr:`asking`). ``name``: "harmfulness" or "refusal".

        Returns:
            [example, layer], difference of two cosines, -2 to 2.
        """
        above, below = self.means.of(name)
        x = states.at(position_of(name))
        return (_cosine(x, above) - _cosine(x, below)).numpy()

    def beliefs(self, states: RequestStates) -> pd.DataFrame:
        """Eqs. 3 and 4: one row for each request, with ``harmful`` (Delta_harmful) and ``refuse`` (Delta_refuse), the
        mean cluster scores over layers 1 to L (outputs of blocks; the embedding is left out). ``attrs["note"]`` warns
        where the directions are confounded. ``states``: of requests that were asked alike (:attr:`asking`)."""
        table = pd.DataFrame(
            {
                "id": [r.id for r in states.requests],
                "kind": [r.kind for r in states.requests],
                "category": [r.category for r in states.requests],
                "harmful": self.scores(states, "harmfulness")[:, 1:].mean(1),
                "refuse": self.scores(states, "refusal")[:, 1:].mean(1),
            }
        )
        table.attrs["note"] = self._warning()
        return table

    def separation(self, states: RequestStates, positive: Bool[np.ndarray, " example"], name: str) -> pd.DataFrame:
        """AUROC by layer (:func:`probes.requests.states.separation`) of the projection on a direction, on requests that
        did not make it. ``layer0_auroc`` and ``confounded`` say whether these, or those of the fit, end differently in
        the two classes.

        ``states``: of the requests. ``positive``: whether each is harmful (or refused). ``name``: of the direction.

        Raises:
            ValueError: requests of the fit, and one class only.
        """
        require_disjoint(self.states.requests, states.requests)
        x = states.at(position_of(name))
        positive, groups = np.asarray(positive), [r.group for r in states.requests]
        table = separation(self.direction(name).project(x).nan_to_num().numpy(), positive, groups)  # NaN: no direction
        layer0 = states.layer0_auroc(positive)
        return table.assign(layer0_auroc=layer0, confounded=is_confounded(layer0) or self.is_confounded)

    def test(self, states: RequestStates, groups: Sequence[str] | None = None) -> HeldOut:
        """What the directions say of requests that did not make them: whether each tells harmful from harmless ones
        and, where ``groups`` has both, refused from accepted ones.

        ``states``: of the requests. ``groups``: of each of them, as
        :meth:`probes.requests.behaviour.Behaviour.group_of` gives it; None: nothing is known of replies.

        Raises:
            ValueError: requests of the fit, and one kind only.
        """
        harmful = np.array([r.is_harmful for r in states.requests])
        named = np.array(groups if groups is not None else [r.kind for r in states.requests])
        if len(named) != len(states):
            raise ValueError(f"{len(named)} groups were given for {len(states)} requests; expected one for each.")
        verdicts = np.array([group.partition("-")[2] for group in named])
        judged = np.isin(verdicts, ("refused", "accepted"))
        classes = {"harmful from harmless": (harmful, np.ones(len(states), dtype=bool))}
        if len(set(verdicts[judged])) == 2:
            classes["refused from accepted"] = (verdicts == "refused", judged)
        tables = [
            self.separation(states.select(among), positive[among], name).assign(
                direction=name, position=position, classes=told
            )
            for told, (positive, among) in classes.items()
            for name, position in POSITIONS.items()
        ]
        separations = pd.concat(tables, ignore_index=True)
        first = ["direction", "position", "classes"]
        beliefs = self.beliefs(states)
        return HeldOut(
            directions=self,
            requests=states.requests,
            separations=separations[[*first, *(name for name in separations if name not in first)]],
            beliefs=beliefs.assign(group=named),
            baselines=self._baselines(states, harmful),
            layer0_auroc=states.layer0_auroc(harmful),
        )

    def _baselines(self, states: RequestStates, harmful: Bool[np.ndarray, " example"]) -> pd.DataFrame:
        """What the texts alone tell of others, learned from those of the fit; in folds where these are withheld."""
        if any(r.is_withheld for r in self.states.requests):
            return surface_baselines(states.requests, harmful)
        own, known = states.embedded, self.states.embedded
        embedded = None if own is None or known is None else (own, known)
        return surface_baselines(states.requests, harmful, self.states.requests, self.positive, embedded)

    def category_directions(self, name: str, at_least: int = LEAST_REQUESTS) -> dict[str, Direction]:
        """The direction called ``name`` ("harmfulness" or "refusal") of each category: its positive requests against
        all negative ones. Categories with fewer positive requests than ``at_least`` are left out."""
        x = self.states.at(position_of(name))
        categories = np.array([r.category for r in self.states.requests])
        below = mean_state(x[torch.from_numpy(~self.positive)])
        found = {}
        for category in dict.fromkeys(categories[self.positive]):
            members = (categories == category) & self.positive
            if category and members.sum() >= at_least:
                about = dict(self.direction(name).about) | {"category": str(category), "n_positive": int(members.sum())}
                vectors = mean_state(x[torch.from_numpy(members)]) - below
                found[str(category)] = Direction(vectors, self.direction(name).model, about)
        return found

    def by_category(self, name: str, at_least: int = LEAST_REQUESTS) -> pd.DataFrame:
        """Cosines between :meth:`category_directions` of ``name`` and ``at_least``, mean over layers 1 to L: a square
        table, empty where there are none. All share the negative mean, and are the more alike for it; ``attrs["note"]``
        says so, and whether the directions are confounded."""
        found = self.category_directions(name, at_least)
        cosines = [[float(a.cosine(b)[1:].mean()) for b in found.values()] for a in found.values()]
        table = pd.DataFrame(cosines, index=list(found), columns=list(found))
        shared = "All share the mean of the negative requests, which makes them alike."
        table.attrs["note"] = f"{shared} {self._warning()}".strip()
        return table

    def _warning(self) -> str:
        if not self.is_confounded:
            return ""
        return (
            f"Confounded: the embedding at t_inst alone tells the fit's classes apart (AUROC {self.layer0_auroc:.2f})."
        )

    def save_directions(self, directory: str | Path) -> Path:
        """The two directions alone, each in a folder of its own in ``directory`` (which is returned), for
        :func:`interp.load_direction`. :meth:`save` keeps the states too, from which all else is computed: 180 kB a
        request for 24 layers of 896."""
        directory = Path(directory)
        self.harmfulness.save(directory / "harmfulness")
        self.refusal.save(directory / "refusal")
        return directory

    def to_findings(self, held_out: Mapping[str, HeldOut] | None = None, *, include_replies: bool = False) -> Findings:
        """The report: cosine by layer with its ceiling, categories and ``held_out``: by the name of its condition, what
        :meth:`test` or :func:`compare_protocols` found on other requests. None: nothing of these.
        There are no replies in it, so ``include_replies`` changes nothing."""
        return super().to_findings(include_replies, **({"held_out": held_out} if held_out else {}))


@dataclass(frozen=True, eq=False)
class HeldOut:
    """What directions say of requests that did not make them.

    Args:
        directions: the ones that were tested.
        requests: the ones they were tested on.
        separations: direction, position, classes, and the columns of :func:`probes.requests.states.separation`, by
            layer.
        beliefs: :meth:`HarmfulDirections.beliefs` with ``group``.
        baselines: what the texts alone tell, learned from those of the fit
            (:func:`probes.requests.surface_baselines`).
        layer0_auroc: what the embedding of the last token tells (:func:`probes.requests.states.embedding_auroc`).
    """

    directions: HarmfulDirections
    requests: tuple[Request, ...]
    separations: pd.DataFrame
    beliefs: pd.DataFrame
    baselines: pd.DataFrame
    layer0_auroc: float

    __repr__ = brief

    @property
    def is_confounded(self) -> bool:
        """Whether the requests' endings tell the classes apart, here or where the directions were fitted."""
        return is_confounded(self.layer0_auroc) or self.directions.is_confounded


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


def _cosine(a: Float[Tensor, "... d_model"], b: Float[Tensor, "... d_model"]) -> Tensor:
    return torch.nn.functional.cosine_similarity(a, b, dim=-1)

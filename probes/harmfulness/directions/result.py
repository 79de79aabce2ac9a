"""Two directions and the states that they are of: what they say of requests, and how well.

After "LLMs Encode Harmfulness and Refusal Separately" (Zhao et al. 2025, arXiv 2507.11878), Eqs. 2 to 4. Ours: the
embedding as a control, and the baselines that see the text alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from interp.door import made_by
from interp.door.brief import brief
from interp.reports import Findings, Result, later
from probes.harmfulness.directions.agreement import Agreement, agreement
from probes.harmfulness.directions.means import POSITIONS, Means, mean_state, position_of
from probes.requests import (
    LEAST_REQUESTS,
    Request,
    is_confounded,
    require_disjoint,
    separation,
    surface_baselines,
)

if TYPE_CHECKING:
    from interp.edits import Direction
    from probes.requests import RequestStates


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

    harmfulness: Direction = later()
    refusal: Direction = later()
    means: Means = later()
    states: RequestStates = later()
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
        from torch.nn.functional import cosine_similarity

        above, below = self.means.of(name)
        x = states.at(position_of(name))
        return (cosine_similarity(x, above, dim=-1) - cosine_similarity(x, below, dim=-1)).numpy()

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
        """AUROC by layer (:func:`probes.requests.classes.separation`) of the projection on a direction, on requests
        that did not make it. ``layer0_auroc`` and ``confounded`` say whether these, or those of the fit, end
        differently in the two classes.

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
        embedded = None if own is None or known is None else (own.numpy(), known.numpy())
        return surface_baselines(states.requests, harmful, self.states.requests, self.positive, embedded)

    def category_directions(self, name: str, at_least: int = LEAST_REQUESTS) -> dict[str, Direction]:
        """The direction called ``name`` ("harmfulness" or "refusal") of each category: its positive requests against
        all negative ones. Categories with fewer positive requests than ``at_least`` are left out."""
        from interp.edits import Direction

        x = self.states.at(position_of(name))
        categories = np.array([r.category for r in self.states.requests])
        below = mean_state(x[~self.positive])
        found = {}
        for category in dict.fromkeys(categories[self.positive]):
            members = (categories == category) & self.positive
            if category and members.sum() >= at_least:
                about = dict(self.direction(name).about) | {"category": str(category), "n_positive": int(members.sum())}
                vectors = mean_state(x[members]) - below
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
        separations: direction, position, classes, and the columns of :func:`probes.requests.classes.separation`, by
            layer.
        beliefs: :meth:`HarmfulDirections.beliefs` with ``group``.
        baselines: what the texts alone tell, learned from those of the fit
            (:func:`probes.requests.surface_baselines`).
        layer0_auroc: what the embedding of the last token tells (:func:`probes.requests.classes.embedding_auroc`).
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

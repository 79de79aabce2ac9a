"""How many dimensions has refusal, how many has harmfulness? Subspaces removed and added, beside random ones; and
whether one of the two still acts when the other is gone.

After refusal cones (arXiv 2502.17420): a subspace of k dimensions mediates where removing it does more than removing
random ones of as many, and independence is shown by intervention, not by a cosine. Ours: subspaces of paired
differences (whole pairs) and of the mean differences of categories, first tokens alone, every control read with both
signs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from interp.door import public
from interp.interventions import Branch, ResidualEdit
from interp.models import Model
from interp.records import Kept, keeps_work
from interp.scans.scan import scan
from probes.harmfulness.directions import DIRECTIONS, HarmfulDirections, Openings
from probes.harmfulness.steering.dimensions_result import Dimensions
from probes.harmfulness.steering.screen import METRIC
from probes.heads import check_once
from probes.requests import Request, build_request_prompts, describe_requests, require_disjoint, require_requests
from probes.studies import Study

BASES = ("paired differences", "categories")
N_RANDOM = 20
CITATIONS = ["Wollschlaeger et al. (2025), The Geometry of Refusal in Large Language Models. arXiv:2502.17420."]
CAVEATS = [
    "A basis of k dimensions holds those of fewer: an effect that does not grow from k to k + 1 is no proof of k.",
    "First tokens alone: that a reply would begin to refuse, not that it does.",
]


def subspace(
    directions: HarmfulDirections, name: str, layer: int, k: int, basis: str
) -> Float[Tensor, "dimension d_model"]:
    """Orthonormal rows that span the first ``k`` principal directions (uncentred, so that the first is about the mean)
    of the fitted pairs' differences, or of the mean differences of their categories, at one layer. Raises
    ``ValueError`` where there are fewer pairs or categories than ``k``."""
    states = directions.states
    x = states.at("t_inst" if name == "harmfulness" else "t_post")[:, layer].double()
    members: dict[str, dict[bool, int]] = {}
    for i, (request, positive) in enumerate(zip(states.requests, directions.positive, strict=True)):
        members.setdefault(request.pair or request.id, {})[bool(positive)] = i
    pairs = [m for m in members.values() if len(m) == 2]
    differences = torch.stack([x[m[True]] - x[m[False]] for m in pairs]) if pairs else x[:0]
    if basis == "categories":
        of = [states.requests[m[True]].category for m in pairs]
        rows = [differences[[c == category for c in of]].mean(0) for category in dict.fromkeys(of)]
        differences = torch.stack(rows) if rows else differences
    if len(differences) < k:
        raise ValueError(f"{len(differences)} {basis}; expected at least k = {k}.")
    return torch.linalg.svd(differences, full_matrices=False).Vh[:k].float()


def random_subspace(k: int, d_model: int, seed: int) -> Float[Tensor, "dimension d_model"]:
    """Orthonormal rows that span a random subspace."""
    drawn = torch.randn(d_model, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.linalg.qr(drawn).Q.T.float()


def removal(rows: Float[Tensor, "dimension d_model"], n_layers: int) -> tuple[ResidualEdit, ...]:
    """A subspace taken out of the stream at every layer, and out of what attention adds (directional ablation, Arditi
    et al. 2024, of each of its orthonormal rows)."""
    places = [(layer, at) for layer in range(n_layers) for at in ("input", "attention")]
    edits = [ResidualEdit(layer, row, "remove", at=at) for layer, at in places for row in rows]
    return (*edits, *(ResidualEdit(n_layers, row, "remove") for row in rows))


@dataclass(frozen=True)
class Tried:
    """One intervention. ``op``: "remove" or "add"; ``draw``: "" for the subspace itself, else "random 0", ...;
    ``steered``: a direction that is added as well, "" for none."""

    direction: str
    basis: str
    k: int
    op: str
    draw: str = ""
    sign: str = "+"
    steered: str = ""


@public
@keeps_work
def try_dimensions(
    model: Model,
    directions: HarmfulDirections,
    openings: Openings,
    harmful: Sequence[Request],
    harmless: Sequence[Request],
    *,
    layers: Mapping[str, int],
    coefficients: Mapping[str, float],
    ks: Sequence[int] = (1, 2, 4, 8),
    bases: Sequence[str] = BASES,
    n_random: int = N_RANDOM,
    batch_size: int = 1,
    keep: Kept = None,
) -> Dimensions:
    """Subspaces of 1 to 8 dimensions removed from harmful requests and added to harmless ones, beside random ones of as
    many dimensions and the same norm; and each direction steered while the other one is removed.

    Args:
        model: the one that the directions are of.
        directions: fitted on whole pairs, with categories.
        openings: first tokens of refusals and acceptances.
        harmful: harmful requests that fitted nothing; subspaces are removed there, in every layer.
        harmless: harmless ones; there they are added, at one layer.
        layers: where each direction is read, and added.
        coefficients: what multiplies the difference of means that is added: of it, the part within the subspace.
        ks: dimensions.
        bases: of paired differences, of categories, or both; the first alone is added.
        n_random: random subspaces beside each; below 19 there is no verdict.
        batch_size: requests between two part files.
        keep: where the work and the report are kept.

    Raises:
        ValueError: requests of the fit, and fewer pairs or categories than dimensions.

    Cost for each harmful request: len(ks) (n_random + 2 len(bases)) passes; for each harmless one 3 n_random + 4, and
    2 len(ks) (2 n_random + 1) parts of one, from the layer that is steered to the last.
    """
    requests = [*harmful, *harmless]
    require_requests(requests)
    require_disjoint(directions.states.requests, requests)
    settings = {"directions": directions.provenance["run_id"], "layers": dict(layers), "bases": list(bases)}
    settings |= {"coefficients": dict(coefficients), "ks": list(ks), "n_random": n_random}
    prompts = openings.on(build_request_prompts(model, requests))
    study = Study(
        "Dimensions of harmfulness and refusal",
        model,
        prompts,
        data=describe_requests(requests),
        settings=settings,
        batch_size=batch_size,
        keep=keep,
        citation=CITATIONS,
        caveats=CAVEATS,
    )
    if study.found is not None:
        return study.found
    tried = {
        "harmful": _removed(model, directions, layers, ks, bases, n_random),
        "harmless": _added(model, directions, layers, coefficients, ks, bases[:1], n_random),
    }
    tried["harmless"] |= _without(model, directions, layers, coefficients, n_random)
    most = max(len(some) for some in tried.values())
    how, _ = check_once(model, prompts[:1], list(tried["harmful"].values()), METRIC, "all")

    def score(batch: Sequence[int]) -> dict[str, np.ndarray]:
        margins = np.full((len(batch), 1 + most), np.nan)
        for row, i in enumerate(batch):
            branches = list(tried[requests[i].kind].values())
            each = list(dict.fromkeys(branches))  # random subspaces are beside several
            found = scan(model, [prompts[i]], each, metric=METRIC, positions="all", method=how, check=0)
            values = dict(zip(each, found.values[0], strict=True))
            margins[row, 0], margins[row, 1 : 1 + len(branches)] = found.clean[0], [values[b] for b in branches]
        return {"margin": margins}

    margins, rows = study.run(range(len(requests)), score)["margin"], []
    for request, row in zip(requests, margins, strict=True):
        these = list(tried[request.kind])
        values = dict(zip(these, row[1 : 1 + len(these)], strict=True))
        for t, margin in values.items():
            alone = Tried(t.steered, "", 0, "none", steered=t.steered)
            plain = values[alone] if t.steered and t != alone else row[0]
            rows.append(vars(t) | {"id": request.id, "kind": request.kind, "plain": plain, "margin": margin})
    return study.done(Dimensions(pd.DataFrame(rows), study.provenance()))


def _removed(model, directions, layers, ks, bases, n_random) -> dict[Tried, Branch]:
    found = {}
    for k in ks:
        drawn = {f"random {i}": random_subspace(k, model.d_model, i) for i in range(n_random)}
        random = {name: Branch(removal(rows, model.n_layers), name) for name, rows in drawn.items()}
        for direction in DIRECTIONS:
            for basis in bases:
                rows = subspace(directions, direction, layers[direction], k, basis)
                found[Tried(direction, basis, k, "remove")] = Branch(removal(rows, model.n_layers), "own")
                found |= {Tried(direction, basis, k, "remove", name): branch for name, branch in random.items()}
    return found


def _added(model, directions, layers, coefficients, ks, bases, n_random) -> dict[Tried, Branch]:
    """The part of the difference of means within the subspace, and random vectors of its norm."""
    found = {}
    for direction, layer in layers.items():
        whole = directions.direction(direction).vectors[layer]
        for basis in bases:
            for k in ks:
                rows = subspace(directions, direction, layer, k, basis)
                vector = coefficients[direction] * (rows.T @ (rows @ whole))
                found[Tried(direction, basis, k, "add")] = Branch((ResidualEdit(layer, vector),), "own")
                for i in range(n_random):
                    drawn = random_subspace(1, model.d_model, i)[0] * vector.norm()
                    for sign, size in (("+", 1.0), ("-", -1.0)):
                        t = Tried(direction, basis, k, "add", f"random {i}", sign)
                        found[t] = Branch((ResidualEdit(layer, drawn, coefficient=size),), "random")
    return found


def _without(model, directions, layers, coefficients, n_random) -> dict[Tried, Branch]:
    """Each direction added while the other (or a random one) is removed everywhere; and those removals alone, on the
    same requests: what adding does then is told from what removing does by itself."""
    found = {}
    for steered, layer in layers.items():
        other = next(name for name in DIRECTIONS if name != steered)
        vector = coefficients[steered] * directions.direction(steered).vectors[layer]
        add = ResidualEdit(layer, vector)
        found[Tried(steered, "", 0, "none", steered=steered)] = Branch((add,), "steered")
        rows = {"": subspace(directions, other, layers[other], 1, BASES[0])}
        rows |= {f"random {i}": random_subspace(1, model.d_model, i) for i in range(n_random)}
        for name, row in rows.items():
            removed = removal(row, model.n_layers)
            found[Tried(other, BASES[0], 1, "remove", name)] = Branch(removed, "removed")
            found[Tried(other, BASES[0], 1, "remove", name, steered=steered)] = Branch((add, *removed), "both")
    return found

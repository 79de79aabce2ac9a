"""First tokens over a grid of layers and coefficients: where a direction turns the opening of a reply, before any reply
is generated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from interp.edits import Direction
from interp.interventions import Branch, ResidualEdit
from interp.models import Model
from interp.prompts import Prompt
from interp.reading import LogitDifference
from interp.scans import Positions
from interp.scans.scan import scan
from interp.statistics import mean_estimate, wilson_share
from probes.harmfulness.directions import DIRECTIONS, Openings
from probes.harmfulness.steering.arms import Arm
from probes.heads import check_once
from probes.requests import Kind, Request
from probes.studies import Study

MOST_LAYERS = 14
FEW = 8  # requests of a kind in a screen at all positions
SCREEN_NOTE = (
    "Log odds (nats) of refusing against accepting first tokens, steered on validation requests; leans to refusal: the "
    "share of requests above 0."
)
METRIC = LogitDifference("refusing", "accepting")


def default_layers(model: Model) -> tuple[int, ...]:
    """Inputs of up to 14 blocks, evenly spread, the middle among them; neither the embedding nor the last output."""
    step = -(-(model.n_layers - 1) // MOST_LAYERS)
    middle = model.n_layers // 2
    return tuple(layer for layer in range(1, model.n_layers) if (layer - middle) % step == 0)


def screen(
    study: Study,
    requests: Sequence[Request],
    prompts: Sequence[Prompt],
    directions: dict[str, Direction],
    openings: Openings,
) -> pd.DataFrame:
    """Log odds of refusing against accepting first tokens: one row for each arm, layer, coefficient and place.

    "+" arms on harmless requests, "-" on harmful ones. ``positions`` (column): "answer" on every request, then, unless
    that is all that was asked, the place of steering itself, for "all" on 8 requests of a kind. ``log_odds`` and its
    ``change`` from unsteered with bootstrap intervals; ``leans_to_refusal``: the share above 0, with Wilson's;
    ``unsteered``: that share without steering; ``how``: fan-out or loop.
    """
    model, settings = study.model, study.settings
    named, signs, frames = openings.on(prompts), {"harmless": 1.0, "harmful": -1.0}, []
    grid = [(name, lay, c) for name in DIRECTIONS for lay in settings["layers"] for c in settings["coefficients"]]
    branches = {
        kind: [Branch((ResidualEdit(lay, directions[n].vectors[lay], "add", sign * c),)) for n, lay, c in grid]
        for kind, sign in signs.items()
    }
    for where in dict.fromkeys(("answer", settings["positions"])):
        place = scan_positions(where, named)
        items = [i for kind in signs for i in _spread([j for j, r in enumerate(requests) if r.kind == kind], place)]
        how, _ = check_once(model, [named[i] for i in items], branches["harmless"], METRIC, place)

        def score(batch: Sequence[int], place=place, how=how) -> dict[str, np.ndarray]:
            clean, values = np.full(len(batch), np.nan), np.full((len(batch), len(grid)), np.nan)
            for kind in signs:
                rows = [row for row, i in enumerate(batch) if requests[i].kind == kind]
                if rows:
                    here = [named[batch[row]] for row in rows]
                    found = scan(model, here, branches[kind], metric=METRIC, positions=place, method=how, check=0)
                    clean[rows], values[rows] = found.clean, found.values
            return {"clean": clean, "values": values}

        arrays = study.run(items, score, f"screen/{where}", 1 if place == "all" else None)
        for kind, sign in signs.items():
            mask = np.array([requests[i].kind == kind for i in items])
            frames.append(_table(grid, sign, kind, arrays["clean"][mask], arrays["values"][mask], where, place, how))
    table = pd.concat(frames, ignore_index=True)
    table.attrs["note"] = SCREEN_NOTE
    return table


def scan_positions(positions: str, prompts: Sequence[Prompt]) -> Positions:
    """Where a scan edits for a steering of these positions: the answer, the span's tokens where it ends every prompt
    and is equally long, else all."""
    if positions in ("answer", "all"):
        return positions
    spans = [p.span(positions) for p in prompts]
    sizes = {len(s) for s in spans}
    if len(sizes) == 1 and 0 not in sizes and all(s[0] + len(s) == len(p) for s, p in zip(spans, prompts, strict=True)):
        return sizes.pop()
    return "all"


def _spread(indices: list[int], place: Positions) -> list[int]:
    """All, or few of them, evenly spread, where a scan costs passes and not a fan-out."""
    if place != "all" or len(indices) <= FEW:
        return indices
    return [indices[i] for i in np.linspace(0, len(indices) - 1, FEW).round().astype(int)]


def _table(grid, sign, kind: Kind, clean, values, where: str, place: Positions, how: str) -> pd.DataFrame:
    rows = []
    for (name, layer, coefficient), column in zip(grid, values.T, strict=True):
        arm = Arm("validation", kind, name, "add", layer, sign * coefficient)
        row: dict[str, Any] = {"arm": arm.name, "kind": kind, "direction": name, "positions": where, "layer": layer}
        row |= {"coefficient": arm.coefficient, "n": len(column)} | mean_estimate(column).columns("log_odds")
        row |= mean_estimate(column - clean).columns("change")
        row |= wilson_share(column > 0).columns("leans_to_refusal")
        rows.append(row | {"unsteered": float((clean > 0).mean()), "how": f"{how}, positions={place}"})
    return pd.DataFrame(rows)


def shortlist(screened: pd.DataFrame, n_layers: int, depth: int) -> list[Arm]:
    """The candidates of each arm: the ``n_layers`` layers where the largest share of first tokens turns, at the
    smallest coefficient that turns it, then by log odds (by these alone where none turns); and the best of the middle
    third of ``depth`` layers, if none of them is there. Each with that coefficient and the next larger one."""
    candidates = []
    for (name, kind, direction), part in screened.groupby(["arm", "kind", "direction"], sort=False):
        wanted = part["leans_to_refusal"] if name.startswith("+") else 1 - part["leans_to_refusal"]
        odds = part["log_odds"] if name.startswith("+") else -part["log_odds"]
        size = part["coefficient"].abs()
        part = part.assign(wanted=wanted, odds=odds, size=size, dose=size.where(wanted > 0, 0.0))
        order = part.sort_values(["wanted", "dose", "odds"], ascending=[False, True, False], kind="stable")
        best = order.drop_duplicates("layer")
        taken = best.head(n_layers)
        middle = best[best["layer"].between(depth / 3, 2 * depth / 3)]
        if len(middle) and not taken["layer"].isin(middle["layer"]).any():
            taken = pd.concat([taken, middle.head(1)])
        sizes = sorted(part["size"].unique())
        for row in taken.itertuples():
            for size in sizes[sizes.index(row.size) :][:2]:
                signed = size if row.coefficient > 0 else -size
                candidates.append(Arm("validation", kind, direction, "add", int(row.layer), float(signed)))
    return candidates

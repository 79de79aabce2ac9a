"""Directions that mean nothing, beside those that are judged: first tokens steered by both signs of each.

A random direction has no sign, and neither has a difference of shuffled classes; so a control that is read with one
sign is read by half. What is compared is the largest change, towards the side that the direction itself moved to, of
either sign. First tokens come from the fan-out, without a reply, so that there can be enough of them for a verdict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.statistics import Claim, Estimate, mean_estimate, paired_share_change
from probes.heads import permutation_p

SIGNS = {"+": 1.0, "-": -1.0}


def beside_draws(
    before: Float[np.ndarray, " example"],
    own: Float[np.ndarray, " example"],
    controls: Mapping[str, Float[np.ndarray, "sign example"]],
) -> dict[str, Any]:
    """What steering did to margins, and how many directions that mean nothing do as much: a row of a table.

    Args:
        before: unsteered margins.
        own: steered by the direction.
        controls: by name, steered by a control with each of its signs.

    Two measures, ``leans`` (the share of margins above 0: which answer is the likelier one) and ``margin``: the change
    with its interval, ``_random`` and ``_shuffled`` (the share of draws that change it as much to the same side, by
    whichever sign does more), ``_p`` ((1 + c) / (1 + n) over all of them). And ``n_random``, ``n_shuffled``.
    """
    row: dict[str, Any] = {"n": len(own), "leans_before": float((before > 0).mean()), "leans": float((own > 0).mean())}
    row["margin"] = float(own.mean())
    changes: dict[str, Estimate] = {
        "leans": paired_share_change((own > 0).astype(float), (before > 0).astype(float)),
        "margin": mean_estimate(own - before),
    }
    kinds = {kind: [v for name, v in controls.items() if name.startswith(kind)] for kind in ("random", "shuffled")}
    row |= {f"n_{kind}": len(values) for kind, values in kinds.items()}
    for measure, change in changes.items():
        row |= change.columns(f"change_{measure}")
        side = 1.0 if change.value >= 0 else -1.0

        def most(after: np.ndarray, measure: str = measure, side: float = side) -> float:
            moved = after - before if measure == "margin" else (after > 0).astype(float) - (before > 0)
            return max(0.0, float((side * moved.mean(1)).max()))

        found = {kind: np.array([most(after) for after in values]) for kind, values in kinds.items()}
        for kind, values in found.items():
            as_much = values >= abs(change.value) - 1e-9
            row[f"{measure}_{kind}"] = float(as_much.mean()) if len(values) else np.nan
        row[f"{measure}_p"] = permutation_p(abs(change.value), np.concatenate(list(found.values())).tolist())
    return row


def shares_of_draws(row: Mapping[str, Any], measure: str) -> str:
    """How many directions that mean nothing do as much, in words."""
    shares = [
        f"{row[f'{measure}_{kind}']:.0%} of {int(row[f'n_{kind}'])} {name} directions"
        for kind, name in (("random", "random"), ("shuffled", "shuffled-label"))
        if row.get(f"n_{kind}")
    ]
    return f"{' and '.join(shares)} do as much with either sign" if shares else "no controls were run"


def margin_sentence(what: str, row: Mapping[str, Any]) -> str:
    """What a change of margins comes to beside draws that mean nothing (a row with what :func:`beside_draws` gives).
    ``what``: is changed, by what, in which unit."""
    claim = Claim(
        what,
        Estimate.from_row(row, "change_margin"),
        p=float(row["margin_p"]),
        n=int(row["n"]),
        draws=int(row["n_random"] + row.get("n_shuffled", 0)),
        form="+.2f",
    )
    return f"{claim.sentence().rstrip('.')}; {shares_of_draws(row, 'margin')}."


def draws_table(
    frame: pd.DataFrame, before: Mapping[Any, float], keys: Sequence[str], example: Sequence[str]
) -> pd.DataFrame:
    """One row for each direction, place, sign and ``keys``: :func:`beside_draws`.

    ``frame``: a row for each :class:`probes.harmfulness.steering.drawing.Drawn` and example, with its fields, the
    ``keys``, the columns ``example`` (what an example is named by; means over all others of them are taken) and
    ``margin``. ``before``: the unsteered margin by these names.
    """
    rows = []
    for key, part in frame.groupby([*keys, "direction", "positions"], sort=False):
        wide = part.pivot_table(index=list(example), columns=["control", "sign"], values="margin", sort=False)
        plain = np.array([before[name] for name in wide.index])
        names = [c for c in dict.fromkeys(wide.columns.get_level_values("control")) if c]
        controls = {c: wide[c].to_numpy().T for c in names}
        for sign in SIGNS:
            if ("", sign) in wide.columns:
                row = dict(zip((*keys, "direction", "positions"), key, strict=True)) | {"sign": sign}
                rows.append(row | beside_draws(plain, wide["", sign].to_numpy(), controls))
    return pd.DataFrame(rows)

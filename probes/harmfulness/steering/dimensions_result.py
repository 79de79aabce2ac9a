"""What removing and adding subspaces did to first tokens, beside random subspaces; and the sentences of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from interp.reports import Findings, Result
from interp.statistics import Claim, Estimate
from probes.harmfulness.steering.draws import beside_draws, shares_of_draws


@dataclass(frozen=True, eq=False, repr=False)
class Dimensions(Result, report="probes.harmfulness.steering.dimensions_result"):
    """What removing and adding subspaces does to first tokens.

    Args:
        outcomes: a row for each intervention (:class:`probes.harmfulness.steering.dimensions.Tried`) and request, with
            ``margin`` (log odds of refusing first tokens, nats), ``plain`` (unsteered; for a removal under which
            something is steered: steered, with nothing removed) and ``kind``.
        provenance: what was run, on what.
    """

    outcomes: pd.DataFrame
    provenance: Mapping[str, Any]

    def to_frame(self) -> pd.DataFrame:
        """A row for each subspace: what it does beside random ones of as many dimensions and the same norm
        (:func:`probes.harmfulness.steering.draws.beside_draws`)."""
        rows = []
        keys = ["op", "direction", "basis", "k", "steered", "kind"]
        for key, part in self.outcomes.groupby(keys, sort=False):
            if part["draw"].eq("").all():
                continue
            wide = part.pivot_table(index="id", columns=["draw", "sign"], values="margin", sort=False)
            plain = part.groupby("id", sort=False)["plain"].first().reindex(wide.index).to_numpy()
            draws = [d for d in dict.fromkeys(wide.columns.get_level_values("draw")) if d]
            controls = {d: wide[d].to_numpy().T for d in draws}
            row = dict(zip(keys, key, strict=True)) | beside_draws(plain, wide["", "+"].to_numpy(), controls)
            dropped = ("n_shuffled", "leans_shuffled", "margin_shuffled")
            rows.append({name: value for name, value in row.items() if name not in dropped})
        return pd.DataFrame(rows)


def findings_of(found: Dimensions) -> Findings:
    """The table, and what it says of each direction."""
    table = found.to_frame()
    return Findings(found.provenance["title"], sentences(table), {"Subspaces": table}, {}, dict(found.provenance))


def sentences(table: pd.DataFrame) -> list[str]:
    """What each subspace does more than random ones, and what is left of one direction's steering when the other is
    gone."""
    said = []
    for row in table.to_dict("records"):
        what = f"{'Removing' if row['op'] == 'remove' else 'Adding'} {row['k']} dimensions of {row['direction']}"
        what += f" ({row['basis']})" + (f" while {row['steered']} is added" if row["steered"] else "")
        claim = Claim(
            f"{what} changes the log odds of refusing {row['kind']} requests (nats)",
            Estimate.from_row(row, "change_margin"),
            p=float(row["margin_p"]),
            n=int(row["n"]),
            draws=int(row["n_random"]),
            form="+.2f",
        )
        said.append(f"{claim.sentence().rstrip('.')}; {shares_of_draws(row, 'margin')}.")
    return said

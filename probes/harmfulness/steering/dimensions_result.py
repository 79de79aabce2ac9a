"""What removing and adding subspaces did to first tokens, beside random subspaces; and the sentences of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from interp.reports import Findings, Result
from interp.statistics import Estimate, mean_estimate
from probes.harmfulness.steering.draws import beside_draws, margin_sentence


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

    def roads(self) -> pd.DataFrame:
        """A row for each direction that was added: what adding it does to the log odds (``adds``), what it does where
        the other direction is removed (``adds_without``), the difference of the two by request, and the share of random
        directions whose removal changes it as much.

        Adding works through the other direction as far as it does less where that is gone. What the removal does
        without adding is taken off on both sides, so it can't pass for that.
        """
        removed, rows = self.outcomes[self.outcomes["op"].eq("remove") & self.outcomes["kind"].eq("harmless")], []
        for (steered, other), part in removed[removed["steered"].ne("")].groupby(["steered", "direction"], sort=False):
            alone = removed[removed["steered"].eq("") & removed["direction"].eq(other)]
            both, without = (frame.pivot(index="id", columns="draw", values="margin") for frame in (part, alone))
            if without.empty:
                continue
            left = both - without.loc[both.index, both.columns]
            steered_alone = part.groupby("id")["plain"].first().loc[both.index]
            untouched = alone.groupby("id")["plain"].first().loc[both.index]
            adds = (steered_alone - untouched).to_numpy()
            controls = {draw: left[[draw]].to_numpy().T for draw in left.columns if draw}
            beside = beside_draws(adds, left[""].to_numpy(), controls)
            row = {"added": steered, "removed": other, "n": len(adds), "n_random": beside["n_random"]}
            row |= mean_estimate(adds).columns("adds") | mean_estimate(left[""].to_numpy()).columns("adds_without")
            row |= {name: value for name, value in beside.items() if name.startswith("change_margin")}
            rows.append(row | {"margin_random": beside["margin_random"], "margin_p": beside["margin_p"]})
        return pd.DataFrame(rows)


def findings_of(found: Dimensions) -> Findings:
    """The table, and what it says of each direction."""
    table = found.to_frame()
    roads = found.roads()
    said = [*sentences(table), *road_sentences(roads)]
    return Findings(found.provenance["title"], said, {"Subspaces": table, "Roads": roads}, {}, dict(found.provenance))


def sentences(table: pd.DataFrame) -> list[str]:
    """What each subspace does more than random ones, and what is left of one direction's steering when the other is
    gone."""
    said = []
    for row in table.to_dict("records"):
        what = f"{'Removing' if row['op'] == 'remove' else 'Adding'} {row['k']} dimensions of {row['direction']}"
        what += f" ({row['basis']})" + (f" while {row['steered']} is added" if row["steered"] else "")
        said.append(margin_sentence(f"{what} changes the log odds of refusing {row['kind']} requests (nats)", row))
    return said


def road_sentences(roads: pd.DataFrame) -> list[str]:
    """Whether one direction steers through the other."""
    said = []
    for row in roads.to_dict("records"):
        adds, without = (Estimate.from_row(row, name) for name in ("adds", "adds_without"))
        what = f"Adding {row['added']} changes the log odds of refusing harmless requests by {adds:+.2f} nats, and by "
        said.append(margin_sentence(f"{what}{without:+.2f} where {row['removed']} is removed: the difference", row))
    return said

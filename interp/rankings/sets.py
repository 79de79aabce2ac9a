"""What a report says of the first heads as a set: of the record that whoever weighed them left in its provenance
(``interp.circuits.weigh_first``)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from interp.figures import heads as figures

SETS, TOGETHER = "The first heads as a set", "Heads that matter only together"


def said_of_sets(provenance: Mapping[str, Any]) -> list[str]:
    """Sentences; none where no set was weighed."""
    return list(provenance.get("sets", {}).get("said", []))


def figures_of_sets(provenance: Mapping[str, Any]) -> dict[str, partial[go.Figure]]:
    """How much the first k heads keep, over k; none where no set was weighed."""
    return {SETS: partial(_plot, provenance["sets"])} if _are_weighed(provenance) else {}


def tables_of_sets(provenance: Mapping[str, Any]) -> dict[str, pd.DataFrame]:
    """The curve, and each two of the first few heads; none where no set was weighed."""
    if not _are_weighed(provenance):
        return {}
    found = provenance["sets"]
    curve, together = pd.DataFrame(found["curve"]), pd.DataFrame(found["together"])
    curve.attrs["note"] = (
        f"{_what(found)} k: the first so many heads of the ranking. 95 % intervals over pairs. Areas over the share of "
        f"heads kept (MIB): CPR {found['cpr']:.2f}, CMD {found['cmd']:.2f}."
    )
    together.attrs["note"] = (
        "Each two of the first heads, replaced alone and together: beyond is what both lose more than the sum of each "
        "alone, with its 95 % interval over pairs; below zero one needs the other."
    )
    return {SETS: curve} | ({TOGETHER: together} if len(together) else {})


def _are_weighed(provenance: Mapping[str, Any]) -> bool:
    """Whether there is a curve: of too few examples it is only said that there is none."""
    return "curve" in provenance.get("sets", {})


def _plot(found: Mapping[str, Any]) -> go.Figure:
    figure = figures.kept_and_removed(pd.DataFrame(found["curve"]))
    figure.layout.meta = {"note": _what(found)}
    return figure


def _what(found: Mapping[str, Any]) -> str:
    return (
        f"On {found['on']}: of what all heads do together, what is left with only the first k heads of the ranking "
        "(all others give what they give on the corrupt prompt), and without them."
    )

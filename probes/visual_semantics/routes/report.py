"""What the study of routes says: which heads read the picture, which the words, level by level."""

from __future__ import annotations

from functools import partial

import pandas as pd
import plotly.graph_objects as go

from interp.figures import MARKER_COLORS, finish
from interp.reports import Figures, Findings
from interp.statistics import FEWEST, too_few
from probes.studies import said_of_data
from probes.visual_semantics.routes.result import BOTH, KINDS, PICTURE, UNTOLD, WORDS, VisualRoutes

_NOTE = (
    "Probability of the gold answer that is lost when the head's edges to a group are {how}, 95 % intervals over "
    "pictures. beyond: lost by all at once beyond the sum. picture_less_words: in the direction of the whole effect; p "
    "flips whole pictures, q is over heads."
)
_SAID = {PICTURE: "read the picture", WORDS: "read the words", BOTH: "read both", UNTOLD: "are undecided"}


def findings_of(found: VisualRoutes) -> Findings:
    """The report of a study of routes."""
    levels = [None, *(level for level in found.levels if level)] if len(found.levels) > 1 else [None]
    table = pd.concat([found.table(level) for level in levels], ignore_index=True)
    replaced = found.provenance["settings"]["replaced"]
    table.attrs["note"] = _NOTE.format(how="those of the edited twin" if replaced else "cut")
    title = "What each head loses by the picture and by the words"
    return Findings(
        title=found.provenance["title"],
        statement=[*(_sentence(table, level or "all") for level in levels), *said_of_data(found.provenance)],
        tables={"Counts": _counts(table), "Routes": table},
        figures=Figures({title: partial(_figure, found, title)}),
        provenance=dict(found.provenance),
    )


def _counts(table: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for level, part in table.groupby("level", sort=False):
        counts = part["reads"].value_counts()
        rows.append({"level": level, **part[["n", "pictures"]].iloc[0], "heads": len(part)})
        rows[-1] |= {kind: int(counts.get(kind, 0)) for kind in KINDS}
    return pd.DataFrame(rows)


def _sentence(table: pd.DataFrame, level: str) -> str:
    part = table[table["level"] == level]
    n, pictures, what = (*part[["n", "pictures"]].iloc[0].astype(int), f"{level} questions")
    if pictures < FEWEST:
        return f"What heads read, on {what}: pictures are {too_few(pictures)}."
    named = []
    for kind in KINDS:
        labels = list(part["label"][part["reads"] == kind])
        if labels:
            names = f" ({', '.join(labels[:5])}{' ...' if len(labels) > 5 else ''})" if kind != UNTOLD else ""
            named.append(f"{len(labels)} {_SAID[kind]}{names}")
    return f"Of {len(part)} heads, on {what} (n = {n}, {pictures} pictures): {'; '.join(named)}."


def _figure(found: VisualRoutes, title: str) -> go.Figure:
    """Each head by what the picture's and the words' edges carry, with both intervals."""
    table = found.table()
    figure = go.Figure()
    for kind, color in zip(KINDS, MARKER_COLORS, strict=False):
        part = table[table["reads"] == kind]
        if part.empty:
            continue
        index = [found.heads.index((row.layer, row.head)) for row in part.itertuples()]
        x, y = found.by_picture[:, index].mean(0), part[WORDS]
        figure.add_scatter(
            x=x,
            y=y,
            mode="markers",
            name=f"{kind} ({len(part)})",
            marker={"color": color, "size": 9},
            customdata=part["label"],
            hovertemplate="%{customdata}<br>picture %{x:.4f}<br>words %{y:.4f}<extra></extra>",
        )
    figure.update_xaxes(title="lost by the picture's edges (probability)")
    figure.update_yaxes(title="lost by the words' edges (probability)")
    return finish(figure.update_layout(title=title))

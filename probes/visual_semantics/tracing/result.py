"""What causal traces of edited pairs found: states by part, layer and role, single heads, pair by pair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from interp.reports import Result
from interp.scans.traces import Trace
from probes.pairs import PicturePair
from probes.visual_semantics.tracing.head_traces import HeadTraces
from probes.visual_semantics.tracing.maps import change_map, share_map
from probes.visual_semantics.tracing.tables import ALL, by_level, claim_table, mean_table, peak_table, with_enough

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from probes.visual_semantics.tracing.readers import PictureReaders


@dataclass(frozen=True)
class TracedPair:
    """A pair in words. ``gold`` is the answer before the edit, which is measured in every run."""

    id: str
    level: str
    kind: str
    question: str
    concept: str
    gold: str
    answer_after: str


@dataclass(frozen=True, eq=False, repr=False)
class VisualTraces(
    Result, report="probes.visual_semantics.tracing.report", figure="Mean change of the gold probability"
):
    """Traces of the pairs that the model answers rightly, before and after the edit.

    Args:
        pairs: those that were traced, in words.
        trace: states of the picture before the edit set into the run on the picture after it, by role
            (:data:`probes.visual_semantics.tracing.roles.ROLES`).
        control: states of an unrelated picture instead (None: not asked for).
        asked: a row for each pair given, with P(gold) on both pictures, and whether it was traced.
        n_layers: of the model.
        provenance: model, data, settings, versions.
        shown: pairs with their traces token by token, for the report's figures; not read back.
        readers: for each of these the heads that read most from its picture; not read back.
        heads: each head patched alone (None: not asked for).
    """

    pairs: tuple[TracedPair, ...]
    trace: Trace
    control: Trace | None
    asked: pd.DataFrame
    n_layers: int
    provenance: Mapping[str, Any]
    shown: tuple[tuple[PicturePair, Trace], ...] = field(default=(), metadata={"saved": False})
    readers: tuple[PictureReaders, ...] = field(default=(), metadata={"saved": False})
    heads: HeadTraces | None = None

    @property
    def levels(self) -> list[str]:
        return [pair.level for pair in self.pairs]

    def means(self, level: str = ALL, measure: str | None = None) -> pd.DataFrame:
        """Mean changes by part, layer and role: see :func:`probes.visual_semantics.tracing.tables.mean_table`.

        Args:
            level: of the pairs; "all" for all.
            measure: what is read of the gold answer, by the trace's names; by default its probability.

        Raises:
            ValueError: a level that no pair has.
        """
        if (level, measure) == (ALL, None):
            return self._means.copy()
        groups = dict(by_level(self.levels))
        if level not in groups:
            raise ValueError(f"level={level!r}; expected one of {', '.join(groups)}.")
        return mean_table(self.trace, self.control, groups[level], measure)

    def peaks(self, only_enough: bool = False) -> pd.DataFrame:
        """See :func:`probes.visual_semantics.tracing.tables.peak_table`. ``only_enough``: without levels that fewer
        than 5 pairs stand behind; by default these are there too."""
        return with_enough(self._peaks) if only_enough else self._peaks.copy()

    def claims(self) -> pd.DataFrame:
        """See :func:`probes.visual_semantics.tracing.tables.claim_table`."""
        return claim_table(self.peaks(), self.n_layers)

    def plot_means(self, measure: str | None = None, share: bool = False) -> go.Figure:
        """Mean change by layer and role, a panel for each part. Of few pairs it is little more than their values, and
        the report has no such figure.

        Args:
            measure: what is read of the gold answer, by the trace's names; by default its probability.
            share: show the change as a share of the mean difference that the edit makes; by default in the measure's
                unit.

        Raises ``ValueError`` for shares of a measure that the edit changes by next to nothing.
        """
        if share:
            return share_map(self.trace, self.means(measure=measure), measure)
        return change_map(self.trace, [self.trace, self.control], measure)

    @cached_property
    def _means(self) -> pd.DataFrame:
        return mean_table(self.trace, self.control, np.ones(len(self.pairs), dtype=bool))

    @cached_property
    def _peaks(self) -> pd.DataFrame:
        return peak_table(self.trace, self.control, self.levels, self.n_layers)

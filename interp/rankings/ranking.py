"""A ranking of attention heads: scores per example, and the evidence that belongs to them."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp import statistics
from interp.door import made_by, public
from interp.figures import TokenView, displayed, frozen_array, head_label
from interp.rankings.measures import Measure
from interp.rankings.plain_tables import NO_EXAMPLES, read_table
from interp.records import hash_text
from interp.reports import Result, narrow

if TYPE_CHECKING:
    import plotly.graph_objects as go


_ONE_NUMBER = (
    "Made from a table with one number for each head, without single examples: there are no intervals, no p-values and "
    "no reliability."
)
_RESERVED = frozenset(
    ["rank", "layer", "head", "label", "kind", "score", "se", "ci_low", "ci_high", "p", "q", "n", "measured"]
)


@made_by("rank_heads(model, questions) or interp.load_ranking(folder)")
@dataclass(frozen=True, eq=False, repr=False)
class HeadRanking(Result, report="interp.rankings.report", figure="All heads"):
    """Heads ranked by the mean over examples of one measure; other measures are controls or companions.

    score: the measure that is ranked, a key of `measures`. measures: name -> float32 [example, layer, head],
    finite, all of one shape. descriptions: name -> what the measure is (`interp.rankings.measures.Measure`); a bare
    text is taken as the meaning of a signed quantity that is 0 for a head without effect, as is no text.
    controls: names of the measures that should leave a real effect alone (the same score with the answers
    swapped); all other measures are quantities of their own, which may differ without any fault.
    tested_by: for a measure that can't be below zero, whose mean is above it also for noise, the measure whose mean
    p and q test in its place.
    provenance: anything JSON can hold; `run_id`, `title`, `model`, `citation` (list) and `caveats` (list)
    are used by the report.

    example_ids: the names of the examples, in the order of the arrays.
    views: what heads look at in some examples, for the figures.

    Statistics (see `interp.statistics`) are computed at first use and kept: mean, standard error, 95 % interval, and
    for a signed measure (`Measure.is_signed`) a two-sided sign-flip p with up to 50,000 flips, and Benjamini-Hochberg q
    over all heads; else p and q are NaN. [1000, 32, 32] takes about 15 s. Misleads: p asks
    whether a head's mean differs from the null value, not whether it belongs to the top; the values of the top heads
    are inflated by their selection. Look at `reliability` and `control_summary` too.

    Raises:
        ValueError: names of measures that there are not, arrays of another shape than [example, layer, head] or not
            finite, another number of ``example_ids``, and views of heads or tokens that there are not.
        TypeError: a provenance that is not JSON's.
    """

    score: str
    measures: Mapping[str, Float[np.ndarray, "example layer head"]]
    example_ids: tuple[str, ...]
    descriptions: Mapping[str, Measure | str]
    provenance: Mapping[str, Any]
    views: tuple[TokenView, ...] = ()
    controls: tuple[str, ...] = ()
    tested_by: Mapping[str, str] = field(default_factory=dict)
    _computed_once: ClassVar = ("_frame", "reliability")  # what a saved ranking is read back with

    def __post_init__(self) -> None:
        if self.score not in self.measures:
            raise ValueError(f"score is {self.score!r}; expected one of the measures: {sorted(self.measures)}.")
        measures = {name: frozen_array(array) for name, array in self.measures.items()}
        shape = measures[self.score].shape
        for name, array in measures.items():
            _check_measure(name, array, self.score, shape)
            if name in _RESERVED or name.endswith(("_ci_low", "_ci_high", "_verdict")):
                raise ValueError(f"A measure is named {name!r}, a column of the table; choose another name.")
        if len(self.example_ids) != shape[0]:
            raise ValueError(f"{len(self.example_ids)} example_ids for {shape[0]} examples; expected one for each.")
        if unknown := sorted(set(self.descriptions) - set(measures)):
            raise ValueError(f"descriptions name {unknown}; expected names of measures: {sorted(measures)}.")
        controls = (self.controls,) if isinstance(self.controls, str) else tuple(self.controls)
        if unknown := [name for name in controls if name not in measures]:
            raise ValueError(f"controls name {unknown}; expected names of measures: {sorted(measures)}.")
        if len(set(controls)) < len(controls):
            raise ValueError(f"controls are {controls}; expected each name once.")
        if unknown := sorted({*self.tested_by, *self.tested_by.values()} - set(measures)):
            raise ValueError(f"tested_by names {unknown}; expected names of measures: {sorted(measures)}.")
        described = {name: _measure(name, self.descriptions.get(name, "")) for name in measures}
        if unfit := [name for name in self.tested_by.values() if not described[name].is_signed]:
            raise ValueError(f"tested_by names {unfit}, which can't be tested; expected measures that have a sign.")
        for view in self.views:
            for layer, head in view.heads:
                if not (0 <= layer < shape[1] and 0 <= head < shape[2]):
                    raise ValueError(
                        f"View {view.example_id!r} shows {head_label(layer, head)}; the scores have "
                        f"{shape[1]} layers of {shape[2]} heads, counted from 0."
                    )
        try:
            provenance = json.loads(json.dumps(self.provenance, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"provenance cannot be written as JSON ({error}); expected strings, finite numbers, "
                "true/false, None, lists and dictionaries of these. Convert tensors and paths first."
            ) from error
        object.__setattr__(self, "measures", measures)
        object.__setattr__(self, "example_ids", tuple(self.example_ids))
        object.__setattr__(self, "descriptions", described)
        object.__setattr__(self, "provenance", provenance)
        object.__setattr__(self, "views", tuple(self.views))
        object.__setattr__(self, "controls", controls)
        object.__setattr__(self, "tested_by", dict(self.tested_by))

    @property
    def scores(self) -> Float[np.ndarray, "example layer head"]:
        """The ranked measure, example by example."""
        return self.measures[self.score]

    @property
    def measure(self) -> Measure:
        """What the ranked score is."""
        return self.descriptions[self.score]

    @property
    def tested(self) -> str | None:
        """The measure whose mean p and q test: the ranked one, unless `tested_by` names another for it; None for one
        without a sign, which is not tested."""
        return self.tested_by.get(self.score, self.score if self.measure.is_signed else None)

    def keeps_sign(self, name: str) -> bool:
        """Whether a head can keep or change the sign of its score under another measure: both have one.

        name: the other measure.
        """
        return self.measure.is_signed and self.descriptions[name].is_signed

    @property
    def n_examples(self) -> int:
        """Prompts scored."""
        return self.scores.shape[0]

    @property
    def n_layers(self) -> int:
        return self.scores.shape[1]

    @property
    def n_heads(self) -> int:
        """Heads of each layer."""
        return self.scores.shape[2]

    @property
    def others(self) -> tuple[str, ...]:
        """Names of the measures that are not ranked: the controls and companions."""
        return tuple(name for name in self.measures if name != self.score)

    @property
    def other_controls(self) -> tuple[str, ...]:
        """The controls that can speak of this order: all but the ranked score itself."""
        return tuple(name for name in self.controls if name != self.score)

    @property
    def is_too_few(self) -> bool:
        """Whether there are too few examples (under 10) to say which heads come first: sentences then name none, and a
        report has no figures. A table with one number for each head says nothing of examples, and is taken as it is."""
        return self.n_examples < statistics.FEWEST and self.example_ids != (NO_EXAMPLES,)

    @property
    def n_sign_flips(self) -> int:
        """Sign flips behind each p: all 2^n of few examples, else 100 for each head, 9,999 to 50,000."""
        drawn = int(np.clip(100 * self.n_layers * self.n_heads, 9_999, 50_000))
        return min(drawn, 2**self.n_examples)

    @property
    def p_floor(self) -> float:
        """The smallest p that so many sign flips can give; see `interp.statistics.sign_flip_p`."""
        n_flips = self.n_sign_flips
        return 2 / (n_flips if n_flips == 2**self.n_examples else n_flips + 1)

    @cached_property
    def scores_sha256(self) -> str:
        """A hash of the scores, example by example."""
        return hash_text(self.scores.tobytes().hex())

    @cached_property
    def reliability(self) -> statistics.SplitHalf:
        """Split-half reliability of the order of all heads: was the sample large enough?"""
        return statistics.split_half(self.scores)

    @cached_property
    def _frame(self) -> pd.DataFrame:
        scores = self.scores.astype(np.float64)
        n, n_cells = self.n_examples, self.n_layers * self.n_heads
        layer, head = (index.ravel() for index in np.indices((self.n_layers, self.n_heads)))
        low, high = statistics.mean_interval(scores)
        p = np.full(scores.shape[1:], np.nan)
        if self.tested is not None:
            tested = self.measures[self.tested].astype(np.float64) - self._null(self.tested)
            p = statistics.sign_flip_p(tested, n_resamples=self.n_sign_flips)
        se = scores.std(axis=0, ddof=1) / np.sqrt(n) if n > 1 else np.full(scores.shape[1:], np.nan)
        columns = {
            "layer": layer,
            "head": head,
            "label": [head_label(*pair) for pair in zip(layer, head, strict=True)],
            "score": scores.mean(axis=0).ravel(),
            "se": se.ravel(),
            "ci_low": low.ravel(),
            "ci_high": high.ravel(),
            "p": p.ravel(),
            "q": (p if self.tested is None else statistics.benjamini_hochberg(p)).ravel(),
            "n": n,
        }
        for name in self.others:
            low, high = statistics.mean_interval(self.measures[name])
            columns[name] = self.measures[name].astype(np.float64).mean(axis=0).ravel()
            columns[f"{name}_ci_low"], columns[f"{name}_ci_high"] = low.ravel(), high.ravel()
            if name in self.controls and self.keeps_sign(name):
                columns[f"{name}_verdict"] = self.verdicts_under(columns, name)
        if (kinds := self.provenance.get("head_kinds")) is not None:
            columns["kind"] = [kinds.get(label, "").replace("_", " ") for label in columns["label"]]
        if (screen := self.provenance.get("screen")) is not None:
            exact = set(screen["exact"])
            columns["measured"] = ["exactly" if label in exact else screen["by"] for label in columns["label"]]
        frame = pd.DataFrame(columns).sort_values("score", ascending=False, kind="stable", ignore_index=True)
        frame.insert(0, "rank", np.arange(1, n_cells + 1))
        return frame

    def _null(self, name: str) -> float:
        null = self.descriptions[name].null
        return 0.0 if null is None else null

    def side_of_null(self, values: Any, name: str) -> np.ndarray:
        """On which side of a measure's null value each of the values lies.

        values: of any shape. name: the measure.

        Returns:
            -1, 0 or 1, of the shape of the values.
        """
        return np.sign(np.asarray(values, dtype=np.float64) - self._null(name))

    def verdicts_under(self, columns: Mapping[str, Any] | pd.DataFrame, name: str) -> list[str]:
        """:func:`sign_verdict` of a control, by the null values of the score and of it.

        columns: the ranking's table. name: the control.
        """
        return sign_verdict(columns, name, (self._null(self.score), self._null(name)))

    def to_frame(self) -> pd.DataFrame:
        """One row for each head, best first: rank, layer, head, label, score, se, ci_low, ci_high, p, q, n.

        `score` is the mean. Then, for every other measure X: X (mean), X_ci_low, X_ci_high, and if X is a
        control and both have a sign X_verdict: "keeps sign", "changes sign" or "unclear" (see `sign_verdict`). Equal
        scores keep the order of layer and head. p and q are NaN where nothing is tested (`tested`). Last `kind`, where
        the provenance has "head_kinds": what the head does on random tokens (`interp.circuits.head_kinds`); and
        `measured`, where heads were screened: "exactly", or by which screen.
        """
        return self._frame.copy()

    @public
    def top(self, k: int = 10) -> pd.DataFrame:
        """The first k rows of `to_frame()`: the heads with the highest scores.

        Raises:
            ValueError: ``k`` below 0.
        """
        if k < 0:
            raise ValueError(f"k={k}; expected 0 or more.")
        return self._frame.head(k).copy()

    @public
    def select(
        self, top: int | None = None, q_below: float | None = None, sign: Literal["+", "-"] | None = None
    ) -> list[tuple[int, int]]:
        """The heads that meet all conditions.

        `sign` and `q_below` filter first, then `top` keeps the first so many.

        Returns:
            (layer, head) of each, maybe none, the highest score first; with sign="-" the lowest first, so that
            `select(top=5, sign="-")` gives the five most negative heads.

        Raises:
            ValueError: another ``sign``, ``top`` below 1, and a condition on a test where the measure is not tested.
        """
        if sign not in ("+", "-", None):
            raise ValueError(f"sign is {sign!r}; expected '+', '-' or None for both.")
        if top is not None and top < 1:
            raise ValueError(f"top is {top}; expected at least 1, or None for all heads.")
        frame = self._frame.iloc[::-1] if sign == "-" else self._frame
        if (sign or q_below is not None) and self.tested is None:
            raise ValueError(f"sign and q_below select by a test. {self.measure.untested()} Select by top alone.")
        if sign is not None:
            null = self._null(self.score)
            frame = frame[frame["score"] < null if sign == "-" else frame["score"] > null]
        if q_below is not None:
            frame = frame[frame["q"] < q_below]
        return [(int(layer), int(head)) for layer, head in frame[["layer", "head"]].head(top or len(frame)).values]

    @classmethod
    def from_frame(
        cls,
        frame: pd.DataFrame,
        score: str = "score",
        *,
        measures: Sequence[str] = (),
        name: str | None = None,
        descriptions: Mapping[str, Measure | str] | None = None,
        controls: Sequence[str] = (),
        provenance: Mapping[str, Any] | None = None,
    ) -> HeadRanking:
        """A ranking from a plain table: columns `layer`, `head` (from 0) and `score`, every head once, in any order.

        With a column `example`, every head once for each example, and all statistics follow. Without it there is one
        number for each head: the order, plots, selections and comparisons work; intervals, p and reliability are
        NaN (p is 1), and the ranking's caveats say so. measures: further columns to take. name: what the ranked
        measure is called (by default as its column, but `given_score` for a column `score`, which is a name of the
        table).

        frame: the table. descriptions: measure -> what high and low mean. controls: measures that should leave a real
        effect alone. provenance: where the numbers come from.

        Raises:
            ValueError: missing columns, heads that are missing or doubled, and what is no number.

        >>> HeadRanking.from_frame(pd.read_csv("elsewhere.csv"), score="attribution")
        """
        made, ids = read_table(frame, name or (f"given_{score}" if score in _RESERVED else score), score, measures)
        given = dict(provenance or {})
        if ids == (NO_EXAMPLES,):
            given["caveats"] = [*given.get("caveats", []), _ONE_NUMBER]
        return cls(next(iter(made)), made, ids, dict(descriptions or {}), given, controls=tuple(controls))

    def to_example_frame(self) -> pd.DataFrame:
        """Every score as a plain table that `from_frame` takes: example, layer, head, and a column for each measure."""
        example, layer, head = (index.ravel() for index in np.indices(self.scores.shape))
        columns = {"example": np.asarray(self.example_ids)[example], "layer": layer, "head": head}
        return pd.DataFrame(columns | {name: array.ravel() for name, array in self.measures.items()})

    def by(self, measure: str) -> HeadRanking:
        """The same data ranked by another measure."""
        return replace(self, score=measure)

    def plot(self, name: str | None = None, *, texts: Mapping[str, str] | None = None) -> go.Figure:
        """Heat map of layers against heads; or another figure of the report, by its name.

        texts: of the examples, by id. Each head then shows on hover the example in which its score is most extreme.

        >>> ranking.plot(texts={question.id: question.text for question in questions})
        """
        from interp.figures import heads as figures

        if name is not None:
            return super().plot(name)
        values = self.scores.astype(np.float64).mean(axis=0)
        return figures.head_heatmap(
            values,
            title=f"Mean {displayed(self.score)} of each head{self._few()}",
            unit=self.measure.meaning,
            hover=self._frame,
            examples=self._strongest_examples(texts),
            base=self.measure.base,
            is_signed=self.measure.is_signed,
        )

    def plot_top(self, k: int = 20, texts: Mapping[str, str] | None = None) -> go.Figure:
        """The k best heads as bars with their intervals; the other measures as markers. texts: as in `plot`."""
        from interp.figures import heads as figures

        title = f"{displayed(self.score)}: the first {k} heads{self._few()}"
        return figures.ranked_bars(self._frame, k, title, self.score, self._strongest_examples(texts))

    def _few(self) -> str:
        return f" (n = {self.n_examples}: too few to order heads)" if self.is_too_few else ""

    def _strongest_examples(self, texts: Mapping[str, str] | None) -> np.ndarray | None:
        from interp.figures import heads as figures

        if texts is None:
            return None
        if missing := [name for name in self.example_ids if name not in texts]:
            raise ValueError(
                f"texts has none for {len(missing)} of {self.n_examples} examples, the first {missing[0]!r}; expected "
                "a text for each of example_ids."
            )
        return figures.strongest_examples(self.scores, [texts[name] for name in self.example_ids])

    def __repr__(self) -> str:
        return f"HeadRanking: {import_module('interp.rankings.report').headline(self)}"

    def _repr_html_(self) -> str:
        first = f"<p><b>{html.escape(import_module('interp.rankings.report').headline(self))}</b></p>"
        if self.is_too_few:
            return first
        drawn = import_module("interp.figures.svg").image(self.plot(), f"Mean {displayed(self.score)} of each head")
        return f"{first}<p>The first 10 heads:</p>{narrow(self.top(10), 10)}{drawn}"


def sign_verdict(
    columns: Mapping[str, Any] | pd.DataFrame, measure: str, nulls: tuple[float, float] = (0.0, 0.0)
) -> list[str]:
    """Does each head keep the sign of its score under another measure? Columns as in `HeadRanking.to_frame`; nulls: the
    null values of the score and of the measure.

    "keeps sign" or "changes sign" only where both 95 % intervals are off the null value; else, and where an interval
    is NaN, "unclear".
    """

    def sign(prefix: str, null: float) -> np.ndarray:  # 0 where the interval includes the null value or is NaN
        low, high = (np.asarray(columns[f"{prefix}{end}"]) for end in ("ci_low", "ci_high"))
        return (low > null).astype(int) - (high < null).astype(int)

    product = sign("", nulls[0]) * sign(f"{measure}_", nulls[1])
    return [("unclear", "keeps sign", "changes sign")[value] for value in product]


def _measure(name: str, given: Measure | str) -> Measure:
    return Measure(name, given) if isinstance(given, str) else replace(given, name=name)


def _check_measure(name: str, array: np.ndarray, score: str, shape: tuple[int, ...]) -> None:
    if array.ndim != 3 or 0 in array.shape:
        raise ValueError(f"Measure {name!r} has shape {array.shape}; expected [example, layer, head], none of them 0.")
    if array.shape != shape:
        raise ValueError(f"Measure {name!r} has shape {array.shape}; expected {shape}, the shape of {score!r}.")
    if not np.isfinite(array).all():
        bad = np.argwhere(~np.isfinite(array))
        example, layer, head = bad[0]
        raise ValueError(
            f"Measure {name!r} has {len(bad)} values that are not finite, the first "
            f"({array[tuple(bad[0])]}) at example {example}, {head_label(layer, head)}. Score these "
            "examples again, or leave them out of every measure."
        )

"""`scan`: the exact effect at the answer of every edit in a set, for every prompt."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.architecture import alone, require_in_place
from interp.door import public
from interp.interventions import Branch, EachHead, HeadEdit
from interp.models import measured_mass
from interp.rankings import HeadRanking, Measure
from interp.reading import (
    LogitDifference,
    Metric,
    default_metric,
    kinds_beside,
)
from interp.records import now, showing_progress
from interp.reports import AnswerMass, narrow
from interp.scans.agreement import (
    FanOutDisagreement as FanOutDisagreement,
    Method as Method,
    require_method,
)
from interp.scans.both_ways import BothWays
from interp.scans.branches import Branches, Positions, span_length
from interp.scans.metric_rows import needed_tokens
from interp.scans.together import Beginning

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from interp.models import Model
    from interp.prompts import Prompt

_NOT_EVERYWHERE = (
    "Edited at positions {!r} alone: a head that acts earlier has no effect there. Take positions='all', or "
    "interp.locating.locate, which looks."
)


@dataclass(frozen=True, eq=False)
class ScanResult:
    """A metric's value at the answer for each prompt (example) and each edit (branch), and unedited (``clean``).
    ``answer_mass``: how much of the probability the answers hold together in the unedited model; None if not read.

    ``values`` [example, branch] and ``clean`` [example] are in the metric's ``unit``; ``labels`` name the branches,
    ``example_ids`` the prompts. ``positions``: where the edits acted. ``check``: how far the fan-out is from plain
    passes, in words. ``seconds``: how long it took. ``model``: its name.
    """

    values: Float[np.ndarray, "example branch"]
    clean: Float[np.ndarray, " example"]
    labels: tuple[str, ...]
    example_ids: tuple[str, ...]
    metric: str
    unit: str
    positions: str
    how: str
    check: str
    seconds: float
    answer_mass: AnswerMass | None = None
    model: str = ""

    @property
    def change(self) -> Float[np.ndarray, "example branch"]:
        """Edited minus clean: what the edit does."""
        return self.values - self.clean[:, None]

    @property
    def drop(self) -> Float[np.ndarray, "example branch"]:
        """Clean minus edited: what the edit takes away; for an ablation, what the head contributes."""
        return -self.change

    def to_frame(self) -> pd.DataFrame:
        """One row for each example and branch."""
        n, b = self.values.shape
        return pd.DataFrame(
            {
                "example": np.repeat(self.example_ids, b),
                "branch": np.tile(self.labels, n),
                "clean": np.repeat(self.clean, b),
                "value": self.values.ravel(),
                "change": self.change.ravel(),
            }
        )

    def ranking(self, model: Model | None = None) -> HeadRanking:
        """The heads by what their edit takes away (``drop``), with intervals, p and q: of a scan with one edit for each
        head of the model.

        ``model``: the one that was scanned, to say beside each head what kind it is
        (:func:`interp.circuits.head_kinds`). Costs that function's passes, once for a model; nothing without.

        Raises:
            ValueError: other branches, such as sets of heads, heads that are missing, and a model of another name or
                shape.
        """
        found = [re.fullmatch(r"L(\d+)H(\d+)", label) for label in self.labels]
        heads = np.array([tuple(map(int, match.groups())) for match in found if match])
        if len(heads) < len(found):
            other = self.labels[found.index(None)]
            raise ValueError(f"a ranking is of one edit for each head; the scan has the branch {other!r}.")
        kinds = {} if model is None else self._kinds(model, heads)
        meaning = f"What the edit of the head takes away of {self.metric}: the unedited value less the edited one."
        return HeadRanking(
            "effect",
            {"effect": _grid(self.drop, heads)},
            tuple(
                f"{name} ({i + 1})" if name in self.example_ids[:i] else name for i, name in enumerate(self.example_ids)
            ),
            {"effect": Measure("effect", meaning, self.unit)},
            {
                "title": f"What each head of {self.model or 'the model'} does to {self.metric}",
                "model": self.model,
                "created": now(),
                "positions": self.positions,
                "how": f"{self.how}; {self.check}",
                **({} if self.positions == "all" else {"caveats": [_NOT_EVERYWHERE.format(self.positions)]}),
                **kinds,
            },
        )

    def _kinds(self, model: Model, heads: np.ndarray) -> dict[str, Any]:
        shape = tuple(int(n) for n in heads.max(0) + 1)
        if (self.model, shape) != (model.name, (model.n_layers, model.n_heads)):
            raise ValueError(
                f"the scan is of {self.model or 'a model without name'}, {shape[0]} layers of {shape[1]} heads; the "
                f"model given is {model.name}, {model.n_layers} of {model.n_heads}. Give the one that was scanned."
            )
        return kinds_beside(model)

    def top(self, k: int = 10) -> pd.DataFrame:
        """The k heads whose edit takes most away: label, effect, interval, q, n.

        Raises:
            ValueError: as :meth:`ranking`.
        """
        return self.ranking().top(k)[["label", "score", "ci_low", "ci_high", "q", "n"]]

    def plot(self) -> go.Figure:
        """The map of heads: layers against heads, coloured by the mean effect.

        Raises:
            ValueError: as :meth:`ranking`.
        """
        return self.ranking().plot()

    def _repr_html_(self) -> str:
        """The ranking, where there is one of every head; else the first rows."""
        try:
            return self.ranking()._repr_html_()
        except ValueError:
            return narrow(self.to_frame(), 10)

    def __repr__(self) -> str:
        return (
            f"ScanResult({self.metric}, {self.values.shape[0]} examples x {self.values.shape[1]} branches, "
            f"positions={self.positions}, {self.how}, {self.seconds:.1f} s)"
        )


@public
def scan(
    model: Model,
    prompts: Sequence[Prompt],
    edits: EachHead | Sequence[Branch],
    *,
    metric: Metric | None = None,
    positions: Positions = "answer",
    method: Method = "auto",
    check: int = 3,
    memory_mib: float = 1024.0,
    read_mass: bool = True,
) -> ScanResult:
    """Measure what each edit does to the answer, exactly.

    Args:
        edits: ``ablate_each_head("zero" | "mean_of_others" | "mean")``, ``scale_each_head(f)``,
            ``patch_each_head(sources)``, or branches of your own, of ``HeadEdit`` and ``ResidualEdit``.
        metric: default: the logit difference between the prompts' first and second answer.
        positions: where the edits act, and nowhere else: ``"answer"`` (the last position), ``"text"`` (all positions
            after the picture, prompt by prompt; of a prompt without one: from the first token of its span "text" to the
            last), the last m positions (a number), or ``"all"``.
        method: ``"auto"`` takes the fan-out, and the loop (one pass for each edit) where the architecture can't; the
            result's ``how`` says which. ``"fan-out"`` raises instead of falling back.
        check: compare this many branches, spread over the layers, and the unedited row of the first prompt with plain
            passes (1 + ``check`` of them); and a branch and the unedited row of the shortest and the longest prompt,
            and of the shortest and longest on each side of every length at which the config says that something
            changes (windows, rotary factors). Once for a model as it is, a kind of edit and lengths: a later scan says
            what was found. 0 trusts the caller, who has checked.
        memory_mib: about how much memory a chunk of branches may take.
        read_mass: read off eight prompts how much of the probability the answers hold together, and warn below 10 %.

    Returns:
        Values in the metric's unit, float32, [example, branch], and the unedited ones [example].

    Raises:
        ValueError: heads or layers out of range, prompts that don't fit the model, patch sources that don't fit the
            prompts.
        KeyError: prompts without the metric's answers.
        NonFiniteLogitsError: NaN or infinite logits.

    Cost of a prompt of S tokens for N heads in L layers, in plain passes of it (logits of the last position, fused
    attention): 1 + (1 + N (L + 1) / 2L) / S at the answer, 1 + m (1 + N (L + 1) / 2L) / S at the last m positions,
    1 + N (L + 1) / 2L at ``"all"``; a patch reads its source, one more. For SmolLM2 at 56 tokens: 3.5. Less what the
    prompts share at their beginning, which is run once; prompts of one length are computed together. Once for a model
    and kind of scan, with ``check=3``, eight plain passes; once a call, one for each of the eight prompts whose mass is
    read. A picture is encoded once.
    Misleads: a zeroed head takes its constant part along; two heads that stand in for each other each seem to do
    nothing.
    Source: ablation and patching of heads as in Wang et al. (2022), arXiv 2211.00593; the fan-out is ours.

    >>> effects = interp.scan(model, prompts, edits=interp.ablate_each_head("zero"))
    >>> effects.change.mean(0)  # one number for each head, layer by layer
    """
    prompts = list(prompts)
    metrics = [metric or default_metric(prompts)]
    (found,) = scan_metrics(model, prompts, edits, metrics, positions, method, check, memory_mib, read_mass)
    return found


def scan_metrics(
    model: Model,
    prompts: Sequence[Prompt],
    edits: EachHead | Sequence[Branch],
    metrics: Sequence[Metric],
    positions: Positions,
    method: Method,
    check: int,
    memory_mib: float = 1024.0,
    read_mass: bool = True,
    beginning: Beginning | None = None,
) -> tuple[ScanResult, ...]:
    """What :func:`scan` gives for each metric, read from the same passes, which are checked by the first.
    ``beginning``: of more prompts than these, where a study goes batch by batch."""
    first = metrics[0]
    _require(model, prompts, edits, metrics, positions, method)
    began = time.perf_counter()
    with alone(model.hf):
        mass = measured_mass(model, prompts, _words(first), most=8, warn=True) if read_mass and check > 0 else None
        ways = BothWays(model, prompts, Branches(model, prompts, edits, positions), metrics, memory_mib, beginning)
        how, note = ways.plan(method, check, stacklevel=5)
        with showing_progress("scan", ways.values[0, :, 1:].size, after_s=3) as advance:
            ways.fill(how, advance)
    return tuple(
        ScanResult(
            values=of_metric[:, 1:],
            clean=of_metric[:, 0],
            labels=ways.labels,
            example_ids=tuple(p.id or str(i) for i, p in enumerate(prompts)),
            metric=str(metric),
            unit=metric.unit,
            positions=str(positions),
            how=how,
            check=note,
            seconds=time.perf_counter() - began,
            answer_mass=mass,
            model=model.name,
        )
        for metric, of_metric in zip(metrics, ways.values, strict=True)
    )


def _grid(values: Float[np.ndarray, "example branch"], heads: np.ndarray) -> Float[np.ndarray, "example layer head"]:
    """Branches laid out by layer and head."""
    shape = tuple(heads.max(0) + 1)
    if len(np.unique(heads, axis=0)) < len(heads) or len(heads) < np.prod(shape):
        raise ValueError(
            f"a ranking is of every head once; the scan has {len(heads)} branches for {shape[0]} layers of {shape[1]} "
            "heads. Scan all heads: interp.ablate_each_head()."
        )
    grid = np.full((len(values), *shape), np.nan, np.float32)
    grid[:, heads[:, 0], heads[:, 1]] = values
    return grid


def _words(metric: Metric) -> tuple[str, ...] | None:
    """The answers that a metric compares; None for all of a prompt's."""
    return (metric.positive, metric.negative) if isinstance(metric, LogitDifference) else None


def _has_text(prompt: Prompt) -> bool:
    return bool(prompt.spans.get("text" if prompt.image is None else "after_image"))


def _require(model, prompts, edits, metrics, positions, method) -> None:
    if not prompts:
        raise ValueError("no prompts were given; a scan needs at least one.")
    require_method(method)
    shortest = min(map(len, prompts))
    if positions not in ("answer", "text", "all") and not (
        isinstance(positions, int) and not isinstance(positions, bool) and 1 <= positions <= shortest
    ):
        raise ValueError(
            f"positions={positions!r}; expected 'answer', 'text', 'all' or a number of last positions from 1 to the "
            f"shortest prompt's length {shortest}."
        )
    model.require_fits(prompts)
    require_in_place(model)
    if positions == "text" and (bad := [i for i, p in enumerate(prompts) if not _has_text(p)]):
        raise ValueError(
            f"positions='text', and prompt {bad[0]} ({prompts[bad[0]].id!r}) has no text after its picture, or no span "
            "'text'. Build prompts with model.prompt, or give the number of last positions."
        )
    for prompt in prompts:
        needed_tokens(metrics, prompt)  # KeyError names the answers there are
    if isinstance(edits, EachHead):
        if edits.op == "mean_of_others":
            HeadEdit(0, 0, "mean_of_others").check(model)
        for layer, head in {head for heads in edits.sets or () for head in heads}:
            HeadEdit(layer, head).check(model)
    else:
        if not edits:
            raise ValueError("no branches were given; a scan needs at least one edit.")
        for branch in edits:
            for edit in branch.edits:
                edit.check(model)
                if isinstance(edit, HeadEdit) and edit.value is not None and edit.value.ndim == 2:
                    lengths = {span_length(p, positions) for p in prompts}
                    if lengths != {edit.value.shape[0]}:
                        raise ValueError(
                            f"{edit.label}: value is for {edit.value.shape[0]} positions; the scan edits "
                            f"{sorted(lengths)} (positions={positions!r})."
                        )

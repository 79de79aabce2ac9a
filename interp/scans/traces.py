"""What a causal trace found: every metric in clean, corrupt and patched runs, as changes and as shares recovered."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from interp.door.brief import brief
from interp.figures import tracing_heatmap
from interp.records import load_artefact, save_artefact, understood

if TYPE_CHECKING:
    import plotly.graph_objects as go

LEAST = {"probability": 0.05, "logits": 0.25}  # of clean - corrupt, by unit, for a share of it to mean something


@dataclass(frozen=True, eq=False)
class Measured:
    """One metric in the clean runs, the runs on the twins (``corrupt``), and every patched run."""

    name: str
    unit: str
    values: Float[np.ndarray, "example part layer region"]
    clean: Float[np.ndarray, " example"]
    corrupt: Float[np.ndarray, " example"]

    __repr__ = brief

    @property
    def change(self) -> Float[np.ndarray, "example part layer region"]:
        """Patched minus corrupt; NaN where an example has no such positions."""
        return self.values - self.corrupt[:, None, None, None]

    def recovered(self, least: float | None = None) -> Float[np.ndarray, "example part layer region"]:
        """The share (patched - corrupt) / (clean - corrupt): 1 where the patch brings back all of the clean answer.

        NaN for examples whose clean and corrupt runs differ by less than ``least`` (:meth:`refused` says which; by
        default 0.05 of probability, 0.25 logits): a share of next to nothing is noise. Means of shares are ruled by
        the smallest differences; the mean change over the mean difference is not.
        """
        difference = self.clean - self.corrupt
        too_small = np.abs(difference) < self._least(least)
        return self.change / np.where(too_small, np.nan, difference)[:, None, None, None]

    def refused(self, least: float | None = None) -> dict[int, str]:
        """Why examples (by number) have no share."""
        least = self._least(least)
        return {
            i: f"{self.name} is {a:.3g} on the clean prompt and {b:.3g} on its twin: less than {least:g} apart"
            for i, (a, b) in enumerate(zip(self.clean, self.corrupt, strict=True))
            if abs(a - b) < least
        }

    def _least(self, given: float | None) -> float:
        return LEAST[self.unit] if given is None else given


@dataclass(frozen=True, eq=False)
class Trace:
    """What each patch did: ``values`` and the like are those of the first metric; ``trace["logit(gold)"]`` of another.

    ``layers``: the patched layers (the middle ones of windows of ``2 window + 1``). ``n_positions``: how many positions
    each region has; values of an empty one are NaN. ``how``: "fan-out" or "loop". ``check``: what was compared.
    """

    measured: tuple[Measured, ...]
    parts: tuple[str, ...]
    layers: tuple[int, ...]
    regions: tuple[str, ...]
    n_positions: Int[np.ndarray, "example region"]
    example_ids: tuple[str, ...]
    window: int
    how: str
    check: str
    seconds: float

    @property
    def values(self) -> Float[np.ndarray, "example part layer region"]:
        return self.measured[0].values

    @property
    def clean(self) -> Float[np.ndarray, " example"]:
        return self.measured[0].clean

    @property
    def corrupt(self) -> Float[np.ndarray, " example"]:
        return self.measured[0].corrupt

    @property
    def change(self) -> Float[np.ndarray, "example part layer region"]:
        """Patched minus corrupt."""
        return self.measured[0].change

    def recovered(self, least: float | None = None) -> Float[np.ndarray, "example part layer region"]:
        """See :meth:`Measured.recovered`."""
        return self.measured[0].recovered(least)

    def __getitem__(self, name: str) -> Measured:
        for measured in self.measured:
            if measured.name == name:
                return measured
        raise KeyError(f"the trace has no {name!r}; it has {[m.name for m in self.measured]}.")

    def to_frame(self, least: float | None = None) -> pd.DataFrame:
        """A row for each measure, example, part, layer and region."""
        frames = []
        for m in self.measured:
            axes = [self.example_ids, self.parts, self.layers, self.regions]
            index = pd.MultiIndex.from_product(axes, names=["example", "part", "layer", "region"])
            shape = m.values.shape
            columns = {"measure": m.name}
            columns |= {"n_positions": np.broadcast_to(self.n_positions[:, None, None], shape).ravel()}
            for name in ("clean", "corrupt"):
                columns[name] = np.broadcast_to(getattr(m, name)[:, None, None, None], shape).ravel()
            columns |= {"value": m.values.ravel(), "change": m.change.ravel()}
            columns |= {"recovered": m.recovered(least).ravel()}
            frames.append(pd.DataFrame(columns, index=index).reset_index())
        return pd.concat(frames, ignore_index=True)

    def plot(self, example: int | None = None, measure: str | None = None, share: bool = False) -> go.Figure:
        """Layers by regions, a panel for each part: the change of one example, or the mean over all that have it.

        share: of clean - corrupt; for the mean, the mean change over the mean difference.
        """
        m = self.measured[0] if measure is None else self[measure]
        if example is not None and not -len(m.clean) <= example < len(m.clean):
            raise ValueError(f"example={example}; the trace has {len(m.clean)}.")
        example = 0 if example is None and len(m.clean) == 1 else example
        chosen = slice(None) if example is None else [example]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a region that no example has
            shown = np.nanmean(m.change[chosen], axis=0)
        difference = float((m.clean - m.corrupt)[chosen].mean())
        if share and abs(difference) < LEAST[m.unit]:
            raise ValueError(
                f"{m.name} is only {difference:+.3g} higher on clean prompts than on their twins: shares of it would "
                "be noise. Plot share=False."
            )
        who = f"mean of {len(m.clean)}" if example is None else (self.example_ids[example] or f"example {example}")
        title = f"{m.name}: {m.clean[chosen].mean():.2f} clean, {m.corrupt[chosen].mean():.2f} corrupt ({who})"
        return tracing_heatmap(
            shown / difference if share else shown,
            self.parts,
            self.layers,
            self.regions,
            title,
            f"share of {m.name} recovered" if share else f"change of {m.name}",
        )

    def save(self, directory: str | Path) -> Path:
        """``trace.safetensors`` and ``trace.json``, which :func:`load_trace` reads."""
        import torch

        names = ("parts", "layers", "regions", "example_ids", "window", "how", "check", "seconds")
        record = {name: getattr(self, name) for name in names}
        record["measures"] = [{"name": m.name, "unit": m.unit} for m in self.measured]
        tensors = {"n_positions": torch.from_numpy(self.n_positions)}
        for i, m in enumerate(self.measured):
            tensors |= {f"{name}.{i}": torch.from_numpy(getattr(m, name)) for name in ("values", "clean", "corrupt")}
        return save_artefact(directory, "trace", record, tensors)

    def __repr__(self) -> str:
        n, p, layers, r = self.values.shape
        return (
            f"Trace({', '.join(m.name for m in self.measured)}; {n} examples, {p} parts x {layers} layers x {r} "
            f"regions, {self.how}, {self.seconds:.1f} s)"
        )


def load_trace(directory: str | Path) -> Trace:
    """What :meth:`Trace.save` wrote."""
    record, tensors = load_artefact(directory, "trace")
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    with understood(Path(directory) / "trace.json"):
        measured = tuple(
            Measured(m["name"], m["unit"], *(arrays[f"{name}.{i}"] for name in ("values", "clean", "corrupt")))
            for i, m in enumerate(record["measures"])
        )
        axes = {name: tuple(record[name]) for name in ("parts", "layers", "regions", "example_ids")}
        rest = {name: record[name] for name in ("window", "how", "check", "seconds")}
        return Trace(measured, n_positions=arrays["n_positions"], **axes, **rest)

"""Fan-out or loop: decided before a scan, by what both give on prompts of all lengths that matter."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from interp.passes import to_check
from interp.scans.fanout import require_fan_out

if TYPE_CHECKING:
    from interp.models import Model
    from interp.prompts import Prompt

Method = Literal["auto", "fan-out", "loop"]
One = TypeVar("One")


class FanOutDisagreement(RuntimeError):
    """The fan-out's logits differ from a plain pass's: its numbers would be wrong."""


def require_method(method: str) -> None:
    """Raise ``ValueError`` for a method that is none."""
    if method not in ("auto", "fan-out", "loop"):
        raise ValueError(f"method={method!r}; expected 'auto', 'fan-out' or 'loop'.")


def planned(
    model: Model,
    prompts: Sequence[Prompt],
    method: str,
    check: int,
    difference: Callable[[int], float],
    falls_back: str = "the scan falls back to one pass for each edit",
    unit: str = " nats",
    stacklevel: int = 4,
) -> tuple[str, str]:
    """Fan-out or loop, and what was checked. ``difference(i)``: how far the two are apart on prompt i
    (:func:`difference_within_rounding`); not asked for where ``check`` is 0."""
    if method == "loop":
        return "loop", "not needed: this is the reference"
    try:
        require_fan_out(model)
        errors = [difference(i) for i in to_check(model, prompts) if check > 0]
    except (RuntimeError, IndexError) as error:  # the loop needs none of what a fan-out asks of an architecture
        if method == "fan-out" or isinstance(error, torch.OutOfMemoryError):
            raise
        warnings.warn(f"{falls_back}: {error}", stacklevel=stacklevel)
        return "loop", f"fan-out refused: {error}"
    note = f"largest difference from plain passes {max(errors):.2g}{unit}" if errors else "skipped by the caller"
    return "fan-out", note


def spread(items: Sequence[One], n: int) -> list[One]:
    """About ``n`` of them, from the first to the last."""
    if not items or not n:
        return []
    return [items[i] for i in np.unique(np.linspace(0, len(items) - 1, n).round().astype(int))]


def difference_within_rounding(
    model: Model,
    prompt: Prompt,
    fast: Tensor,
    slow: Tensor,
    what: str,
    edits: str = "",
    logits: Callable[[], Tensor] | None = None,
    unit: str = " nats",
) -> float:
    """The largest difference of the fan-out's values from those of plain passes, the unedited one first; raises
    :class:`FanOutDisagreement` where it is more than rounding. ``what``: "the fan-out differs".

    ``logits``: the prompt's, whose size half precision rounds by; warned of where that is as large as the effects of
    the ``edits``.
    """
    error = (fast - slow).abs().max().item()
    half = model.dtype != torch.float32
    tolerance = (5e-2 if half else 1e-3) * max(1.0, slow.abs().max().item())
    if half and logits is not None:
        tolerance = max(tolerance, 4 * torch.finfo(model.dtype).eps * logits().abs().max().item())
    if not error <= tolerance:
        raise FanOutDisagreement(
            f"on prompt {prompt.id or prompt.text[:40]!r} ({len(prompt)} tokens) {what} from plain passes by "
            f"{error:.3g}{unit}; expected at most {tolerance:.2g}. {type(model.hf).__name__} can't take a fan-out"
        )
    if half and logits is not None and error > (effect := (slow[1:] - slow[0]).abs().max().item()) / 2:
        warnings.warn(
            f"in {str(model.dtype).removeprefix('torch.')} rounding ({error:.2g} nats) is as large as effects "
            f"({effect:.2g} nats in {len(slow) - 1} {edits} tried): single effects mean little. Load with "
            "dtype=torch.float32.",
            stacklevel=7,
        )
    return error

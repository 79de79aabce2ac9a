"""Which prompts may share a pass, so that the numbers of each are those of the prompt alone.

What the config says is kept to: prompts on different sides of a border never share a pass
(:mod:`interp.passes.lengths`), and nothing is kept of a beginning that looks ahead (:mod:`interp.passes.looks_ahead`).
What no config says is measured: the first pass of each kind and size is compared with its shortest and its longest
prompt run alone, before anything of it is believed. If they differ by more than rounding, such passes are made one
prompt at a time from then on, and a warning says so. That catches a mixture of experts that drops tokens, 8-bit layers
whose rounding goes by the other rows, a model that takes no notice of padding, and any rule of length that we do not
know.

An error that starts at some length shows in each batch with a prompt below and one above it. So what is remembered are
ranges of lengths. The measure costs two prompts for the first batch of a kind and its like (and the batch, where it is
read by a capture); from the second on that reaches beyond what is known, two prompts of rounded lengths are added, so
that there are few.

Edits of ours that count rows or positions are off during a measure: they act on each row by itself. Hooks of the
user's own stay on; what is wrong with them there is remembered for as long as they are.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.architecture import attention_handler, run_pass, undisturbed
from interp.passes.lengths import PassLengths, around_borders, pass_lengths
from interp.passes.looks_ahead import any_looks_ahead, text_probe
from interp.passes.plain import foreign_hooks, plain_logits, rows_are_fixed
from interp.prompts import Prompt

if TYPE_CHECKING:
    from interp.passes.handle import Handle

Kind = Literal["equal lengths", "padded on the left", "padded on the right", "with a shared beginning"]
Run = Callable[[Sequence[Prompt]], Float[Tensor, "example vocabulary"]]
"""Logits at each prompt's last position, from one pass of some kind."""

_MOST_HOOKED = 32  # kinds of passes that are remembered under hooks of others, which come and go


@dataclass
class _Measured:
    """What is known of one kind of pass of one model."""

    right: list[tuple[int, int]] = field(default_factory=list)  # ranges of lengths, disjoint
    wrong: list[tuple[int, int]] = field(default_factory=list)
    most_rows: int = 0

    def verdict(self, low: int, high: int, n_rows: int) -> bool | None:
        if len(self.wrong) > 2 or any(low <= b and a <= high for a, b in self.wrong):
            return False
        known = n_rows <= 2 * self.most_rows and any(a <= low and high <= b for a, b in self.right)
        return True if known else None

    def add_right(self, low: int, high: int, n_rows: int) -> None:
        touching = [r for r in self.right if r[0] <= high and low <= r[1]]
        self.right = [r for r in self.right if r not in touching]
        self.right.append((min(low, *(a for a, _ in touching), low), max(high, *(b for _, b in touching), high)))
        self.most_rows = max(self.most_rows, n_rows)


_KNOWN: WeakKeyDictionary[nn.Module, dict[tuple[Hashable, ...], _Measured]] = WeakKeyDictionary()


def to_check(model: Handle, prompts: Sequence[Prompt]) -> list[int]:
    """Positions of the prompts on which one way of computing is held to another: the first, the shortest, the longest,
    and the shortest and longest on each side of every length at which the config says that something changes."""
    return around_borders([len(p) for p in prompts], lengths_of(model).named)


def lengths_of(model: Handle) -> PassLengths:
    """What of the model goes by the length of a pass, by its config as it is now."""
    return pass_lengths(model.hf.config)


def passes(model: Handle, prompts: Sequence[Prompt], batch_size: int | None = None) -> list[list[int]]:
    """Positions of prompts, in groups that one pass padded on the left may run: each prompt's numbers are then its own.

    At most ``batch_size`` in a group (None: all). ``ValueError`` under an edit that knows rows by number, for prompts
    that can't stay together.
    """
    lengths = lengths_of(model)
    groups = _grouped([lengths.padded_side(len(p)) for p in prompts])
    size = batch_size or len(prompts)
    found = []
    for group in _kept_together(model, groups):
        for at in range(0, len(group), size):
            places = group[at : at + size]
            batch = [prompts[i] for i in places]
            found += [places] if is_right(model, batch, padded_pass(model)) else [[i] for i in places]
    return found


def padded_pass(model: Handle) -> Run:
    """One plain pass over whole prompts, padded on the left."""

    def run(batch: Sequence[Prompt]) -> Float[Tensor, "example vocabulary"]:
        inputs = model.inputs(batch).inputs
        return run_pass(model, {**inputs, "use_cache": False, **model.last_logits_only()}).logits[:, -1]

    return run


def padded_logits(
    model: Handle, prompts: Sequence[Prompt]
) -> Iterator[tuple[list[int], Float[Tensor, "example vocabulary"]]]:
    """Logits at each prompt's last position with the positions of the prompts, in one pass padded on the left, or in as
    many as are needed for each prompt's own numbers."""
    lengths, run = lengths_of(model), padded_pass(model)
    for places in _kept_together(model, _grouped([lengths.padded_side(len(p)) for p in prompts])):
        batch = [prompts[i] for i in places]
        logits = logits_of_batch(model, batch, run)
        if logits is not None:
            yield places, logits
        else:
            yield from (([i], run([prompts[i]])) for i in places)


def logits_of_batch(
    model: Handle, prompts: Sequence[Prompt], run: Run, kind: Kind | None = None, n_shared: int = 0
) -> Float[Tensor, "example vocabulary"] | None:
    """What ``run`` gives for a batch, if that is the numbers of its prompts alone; None if it is not."""
    verdict = _verdict(model, prompts, kind, n_shared)
    if verdict is None:
        try:
            logits = run(prompts)
        except (IndexError, AttributeError, KeyError, TypeError) as error:
            if not n_shared:
                raise
            _note_unshareable(model, prompts, kind, n_shared, error)
            return None
        return logits if _measure(model, prompts, run, kind, n_shared, logits) else None
    return run(prompts) if verdict else None


def _note_unshareable(
    model: Handle, prompts: Sequence[Prompt], kind: Kind | None, n_shared: int, error: Exception
) -> None:
    """Remember that nothing of this model can be kept of a beginning: it has more state than keys and values (a
    state-space mixer beside the attention: Falcon-H1)."""
    measured, kind = _known(model, prompts, kind)
    if not measured.wrong:
        warnings.warn(
            f"{model.name}: what prompts share can't be run once for all ({type(error).__name__}: {error}). Each "
            "prompt is run whole: slower, and right.",
            stacklevel=2,
        )
    measured.wrong.append(_range(prompts, kind, n_shared))


def is_right(model: Handle, prompts: Sequence[Prompt], run: Run, kind: Kind | None = None) -> bool:
    """Whether passes like ``run`` over these prompts give each its own numbers, measured where it is not known."""
    verdict = _verdict(model, prompts, kind, 0)
    return _measure(model, prompts, run, kind, 0, None) if verdict is None else verdict


def may_share(model: Handle, prompts: Sequence[Prompt], n_shared: int) -> bool:
    """Whether the first ``n_shared`` tokens may be run once for these prompts, by what is known beforehand: they do
    not see what follows, no edit counts positions, and a pass of them alone is computed as those of the prompts."""
    if model.attention_refusal or model.counts_rows_and_positions() or any_looks_ahead(model, prompts):
        return False
    lengths = lengths_of(model)
    return {lengths.side(len(p)) for p in prompts} == {lengths.side(n_shared)}


def by_side(model: Handle, prompts: Sequence[Prompt]) -> list[list[int]]:
    """Positions of prompts, in groups whose passes, not padded on the left, are computed alike."""
    lengths = lengths_of(model)
    return _kept_together(model, _grouped([lengths.side(len(p)) for p in prompts]))


def _grouped(keys: Sequence[Hashable]) -> list[list[int]]:
    groups: dict[Hashable, list[int]] = {}
    for i, key in enumerate(keys):
        groups.setdefault(key, []).append(i)
    return list(groups.values())


def _kept_together(model: Handle, groups: list[list[int]]) -> list[list[int]]:
    if len(groups) > 1 and rows_are_fixed(model.hf):
        raise ValueError(
            f"an edit is active that knows rows by their number, and {model.name} computes prompts of these lengths in "
            "different ways, so that they can't share a pass. Edit one prompt at a time."
        )
    return groups


def _known(
    model: Handle, prompts: Sequence[Prompt], kind: Kind | None, hooks: tuple[int, ...] = ()
) -> tuple[_Measured, Kind]:
    lengths = {len(p) for p in prompts}
    kind = kind or ("padded on the left" if len(lengths) > 1 else "equal lengths")
    side = lengths_of(model).padded_side(max(lengths))
    known = _KNOWN.setdefault(model.hf, {})
    key = (kind, side, any(p.image is not None for p in prompts), model.hf.training, hooks)
    if key not in known and len(old := [k for k in known if k[-1]]) > _MOST_HOOKED:
        del known[old[0]]
    return known.setdefault(key, _Measured()), kind


def _verdict(model: Handle, prompts: Sequence[Prompt], kind: Kind | None, n_shared: int) -> bool | None:
    """Right, wrong, or None: not known yet."""
    if len(prompts) < 2 and kind is None:
        return True
    measured, kind = _known(model, prompts, kind)
    low, high = _range(prompts, kind, n_shared)
    if hooks := foreign_hooks(model.hf):
        hooked, kind = _known(model, prompts, kind, hooks)
        if hooked.verdict(low, high, len(prompts)) is False:
            return False
    verdict = measured.verdict(low, high, len(prompts))
    if verdict is None and kind == "equal lengths":  # what holds with padding, holds without
        n = len(prompts[0])
        verdict = _known(model, prompts, "padded on the left")[0].verdict(n, n, len(prompts)) or None
    if verdict is None and rows_are_fixed(model.hf):
        return True  # its batch is not ours to take apart
    return verdict


def _range(prompts: Sequence[Prompt], kind: Kind, n_shared: int) -> tuple[int, int]:
    """The lengths that a pass mixes. Where all are equal, another length is no other case: rounded."""
    low, high = min(map(len, prompts)), max(map(len, prompts))
    if kind == "equal lengths":
        return 2 ** (low.bit_length() - 1), 2 ** low.bit_length() - 1
    return (min(low, n_shared) if n_shared else low), high


@torch.no_grad()
def _measure(
    model: Handle,
    prompts: Sequence[Prompt],
    run: Run,
    kind: Kind | None,
    n_shared: int,
    logits: Float[Tensor, "example vocabulary"] | None,
) -> bool:
    """Compare the batch with its shortest and its longest prompt alone, remember and say what comes of it."""
    measured, kind = _known(model, prompts, kind)
    low, high = _range(prompts, kind, n_shared)
    with undisturbed(model.hf):
        if logits is None or model.counts_rows_and_positions():
            logits = run(prompts)
        off, most = _largest_error(model, prompts, logits.detach())
        if most == torch.inf:
            return True
        if off <= most:
            wide = _wider(model, prompts, kind, n_shared, high) if measured.right else None
            measured.add_right(low, high, len(prompts))
            if wide is not None:
                off, most = _largest_error(model, wide, run(wide))
                if off <= most < torch.inf:
                    measured.add_right(len(wide[0]) if not n_shared else low, len(wide[1]), len(prompts))
            return True
    measured, kind = _known(model, prompts, kind, foreign_hooks(model.hf))
    if not measured.wrong:
        warnings.warn(
            f"{model.name}: logits of {len(prompts)} prompts of {min(map(len, prompts))} to {max(map(len, prompts))} "
            f"tokens in one pass ({kind}) differ from those of one prompt at a time by {off:.2g}; rounding would be at "
            f"most {most:.2g}. Such passes are made one prompt at a time from here on: slower, and right.",
            stacklevel=2,
        )
    measured.wrong.append((low, high))
    return False


def _largest_error(
    model: Handle, prompts: Sequence[Prompt], logits: Float[Tensor, "example vocabulary"]
) -> tuple[float, float]:
    """Of the shortest and the longest prompt: how far from the prompt alone, and what rounding may do."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    off, size = 0.0, 1.0
    for i in {order[0], order[-1]}:
        alone = plain_logits(model, prompts[i])
        if not alone.isfinite().all():
            return 0.0, torch.inf  # nothing to compare with; who asked for the logits is told
        size = max(size, alone.abs().max().item())
        off = max(off, (logits[i].float() - alone).abs().nan_to_num(torch.inf).max().item())
    return off, rounding(model, size)


def why_attention_differs(model: Handle) -> str:
    """Empty if the model gives the same logits when its attention runs through ours, which looks and fans out; or the
    reason why it can't be read (an eager attention that keeps to a mask which the fused one would not be given)."""
    probe = text_probe(model)
    inputs = {**model.inputs([probe]).inputs, "use_cache": False}
    with torch.no_grad():
        own = run_pass(model, inputs).logits[0].float()
        with attention_handler(model, None):
            ours = run_pass(model, inputs).logits[0].float()
    off, most = (ours - own).abs().max().item(), rounding(model, max(1.0, own.abs().max().item()))
    if off <= 10 * most or not own.isfinite().all():
        return ""
    return (
        f"{type(model.hf).__name__} gives logits that differ by {off:.2g} when its attention runs through headscope's: "
        f"it masks in a way of its own (attention {getattr(model.hf.config, '_attn_implementation', None)!r})"
    )


def rounding(model: Handle, size: float) -> float:
    """How far logits of the given largest size may lie apart, computed in two orders: in float32 1e-4 for a small
    model, and more with depth and size; in half precision some steps of the type."""
    if model.dtype == torch.float32 and not model.is_quantized:
        return 1e-4 * max(1.0, size / 10) * max(1.0, model.n_layers / 16)
    most = 8 * torch.finfo(model.dtype).eps * size
    return max(most, 0.05 * size) if model.is_quantized else most


def _wider(model: Handle, prompts: Sequence[Prompt], kind: Kind, n_shared: int, high: int) -> list[Prompt] | None:
    """Two prompts made of tokens of the given ones, of lengths rounded outward within their side: so that batches with
    a token more need no measure of their own."""
    if kind == "equal lengths" or any(p.image is not None for p in prompts):
        return None
    lengths, most = lengths_of(model), model.context_length
    short, long = min(prompts, key=len), max(prompts, key=len)
    n_low = max(2 ** (len(short).bit_length() - 1), n_shared + 1)
    n_high = 2 ** (high - 1).bit_length()
    n_high = min(n_high, most) if most else n_high
    side = lengths.padded_side(len(long))
    while n_low < len(short) and lengths.padded_side(n_low) != side:
        n_low += 1
    while n_high > high and lengths.padded_side(n_high) != side:
        n_high -= 1
    ids = [*long.token_ids, *long.token_ids * (n_high // len(long))][:n_high]
    return [Prompt.from_token_ids(p, text_only=True) for p in (short.token_ids[:n_low], ids)]

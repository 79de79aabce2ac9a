"""The branches of each prompt of a scan, and how many of its last positions they edit."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Literal

from einops import rearrange

from interp.interventions import Branch, EachHead
from interp.reading import head_outputs, mean_head_outputs

if TYPE_CHECKING:
    from interp.models import Model
    from interp.prompts import Prompt

Positions = Literal["answer", "text", "all"] | int


def span_length(prompt: Prompt, positions: Positions) -> int:
    """How many last positions an edit acts on."""
    if positions == "answer":
        return 1
    if positions == "text":
        if prompt.image is not None:
            return len(prompt.span("after_image"))
        return len(prompt) - prompt.span("text")[0]
    return len(prompt) if positions == "all" else int(positions)


def last_positions(positions: Positions) -> int | None:
    """How many last positions, whatever the prompt; None: all. ``ValueError`` for "text", which is as many as a prompt
    has."""
    if positions == "text":
        raise ValueError("positions='text' is another number in each prompt; expected 'answer', 'all' or a number.")
    return {"answer": 1, "all": None}.get(str(positions), positions)


class Branches:
    """The branches for each prompt: the same for all, or, for a patch, set from another run prompt by prompt."""

    def __init__(self, model: Model, prompts: Sequence[Prompt], edits, positions: Positions) -> None:
        self._model, self._prompts, self._edits, self.positions = model, prompts, edits, positions
        self._fixed: list[Branch] | None = None
        if not isinstance(edits, EachHead):
            self._fixed = list(edits)
        elif edits.op == "mean":
            reference = list(edits.reference) if edits.reference is not None else list(prompts)
            last = 1 if positions == "answer" else None
            if positions == "text":
                last = [span_length(p, positions) for p in reference]
            values = mean_head_outputs(model, reference, last)
            self._fixed = edits.branches(model, values)
        elif edits.op == "patch":
            if len(edits.sources) != len(prompts):
                raise ValueError(
                    f"patching needs one source for each prompt; {len(edits.sources)} sources and {len(prompts)} "
                    "prompts were given."
                )
            for i, (prompt, source) in enumerate(zip(prompts, edits.sources, strict=True)):
                m = span_length(prompt, positions)
                if edits.places is not None:
                    _require_places(i, edits.places, prompt, source)
                elif m > len(source) or (positions == "all" and len(source) != len(prompt)):
                    needed = "be of equal length" if positions == "all" else f"have at least {m}"
                    raise ValueError(
                        f"prompt {i} has {len(prompt)} tokens and its patch source {len(source)}; for "
                        f"positions={positions!r} they must {needed}."
                    )
        else:
            self._fixed = edits.branches(model)
        sets = None if self._fixed is not None else edits.sets
        n_each = model.n_layers * model.n_heads if sets is None else len(sets)
        self.n = n_each if self._fixed is None else len(self._fixed)

    @property
    def kind(self) -> tuple[Hashable, ...]:
        """What a check of scans of these branches holds for: how they edit, at which positions."""
        if isinstance(self._edits, EachHead):
            ops: frozenset[str] = frozenset([self._edits.op])
        else:
            ops = frozenset(f"{type(e).__name__} {e.op}" for branch in self._edits for e in branch.edits)
        return ops, self.positions, self._edits_sets()

    def _edits_sets(self) -> bool:
        """Whether some branch has several edits."""
        if isinstance(self._edits, EachHead):
            return self._edits.sets is not None
        return any(len(branch.edits) > 1 for branch in self._edits)

    def of(self, group: Sequence[int]) -> list[list[Branch]]:
        """The branches of some prompts; for a patch, from passes over their sources."""
        if self._fixed is not None:
            return [self._fixed] * len(group)
        sources, places = [self._edits.sources[i] for i in group], self._edits.places
        spans = [span_length(self._prompts[i], self.positions) for i in group]
        found = head_outputs(self._model, sources, last=spans if places is None else None)
        if places is not None:
            found = [z[:, list(places[i][-m:])] for i, m, z in zip(group, spans, found, strict=True)]
        laid_out = [rearrange(z, "layer pos head d_head -> layer head pos d_head") for z in found]
        return [self._edits.branches(self._model, z) for z in laid_out]


def _require_places(i: int, places: Sequence[Sequence[int]], prompt: Prompt, source: Prompt) -> None:
    given = places[i] if i < len(places) else ()
    if len(given) != len(prompt) or not all(0 <= place < len(source) for place in given):
        raise ValueError(
            f"prompt {i} has {len(prompt)} tokens and its patch source {len(source)}; places names {len(given)} "
            f"positions, from {min(given, default=0)} to {max(given, default=0)}. Expected one of the source's for "
            "each of the prompt's."
        )

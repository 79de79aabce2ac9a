"""The numbers of a scan, by the fan-out (prompts together where they can be) or by the loop; and the two held together.

What is held against plain passes is what the scan gives, in the groups in which it is computed: not a smaller pass made
for the check. It is done once for a model and a kind of scan (:mod:`interp.scans.checked`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.interventions import Branch
from interp.passes import plain_logits
from interp.reading import Metric, Probability
from interp.scans.again import edited_logits
from interp.scans.agreement import FanOutDisagreement, difference_within_rounding, planned, spread
from interp.scans.branches import Branches, span_length
from interp.scans.checked import checked_before, remember
from interp.scans.fanout import fan_out_logits, require_edits_act
from interp.scans.metric_rows import needed_tokens, read_metrics
from interp.scans.together import Beginning, fan_out_together, groups_of, note_together, rows_go_together

if TYPE_CHECKING:
    from interp.models import Model
    from interp.prompts import Prompt


class BothWays:
    """A scan's numbers [metric, example, 1 + branch], prompt by prompt or group by group, by either way.

    ``how`` is decided by :meth:`plan`, which compares the two; ``values`` are filled in by :meth:`fill`, and are there
    already for the prompts that were compared."""

    def __init__(
        self,
        model: Model,
        prompts: Sequence[Prompt],
        branches: Branches,
        metrics: Sequence[Metric],
        memory_mib: float,
        beginning: Beginning | None = None,
    ) -> None:
        self._model, self._prompts, self._branches, self._metrics = model, prompts, branches, metrics
        self._memory = memory_mib
        self._spans = [span_length(p, branches.positions) for p in prompts]
        self._tokens = [needed_tokens(metrics, p) for p in prompts]
        self._beginning = beginning or Beginning(model, prompts)
        self._groups: list[list[int]] | None = None
        self._done: set[int] = set()
        self.labels: tuple[str, ...] = ()
        self.values = np.full((len(metrics), len(prompts), 1 + branches.n), np.nan, dtype=np.float32)

    def plan(self, method: str, check: int, stacklevel: int) -> tuple[str, str]:
        """Fan-out or loop, and what was checked, in words."""
        model, shares = self._model, self._beginning.n_shared > 0
        kind = (self._branches.kind, isinstance(self._metrics[0], Probability), shares)
        if method != "loop" and check:
            before = checked_before(model, self._prompts, kind, check)
            if before is not None:
                return planned(model, self._prompts, method, 0, lambda i: 0.0)[0], before
        errors: dict[int, float] = {}

        def difference(i: int) -> float:
            errors[i] = self._difference(i, check if not errors else 1)
            return errors[i]

        how, note = planned(model, self._prompts, method, check, difference, stacklevel=stacklevel + 1)
        if how == "fan-out" and errors:
            remember(model, [len(self._prompts[i]) for i in errors], kind, check, max(errors.values()))
        elif how == "loop":
            self._done = set()
        return how, note

    def fill(self, how: str, advance: Callable[[int], None]) -> None:
        """Compute what is not there yet; ``advance`` is told how many branches are done."""
        advance(len(self._done) * self._branches.n)
        if how == "loop":
            for i in range(len(self._prompts)):
                (branches,) = self._branches.of([i])
                self._keep([i], [self._loop(i, branches, advance)], branches)
            return
        while missing := [group for group in self._grouped() if not self._done.issuperset(group)]:
            for group in missing:  # anew, where prompts turn out not to go together
                if group in self._grouped():
                    self._run(group, advance)

    def _grouped(self) -> list[list[int]]:
        if self._groups is None:
            most = None if None in self._tokens else max(self._tokens, key=len)
            self._groups = groups_of(self._model, self._prompts, self._spans, self._branches.n, most, self._memory)
        return self._groups

    def _run(self, group: Sequence[int], advance: Callable[[int], None] | None = None) -> None:
        """The fan-out of a group, or of one prompt, whose branches may be more than the memory holds at once."""
        model, of = self._model, self._branches.of(group)
        prompts, m = [self._prompts[i] for i in group], self._spans[group[0]]
        if len(group) == 1:
            tokens = self._tokens[group[0]]
            kept = self._beginning.prefix_of(prompts[0], m)
            logits = fan_out_logits(model, prompts[0], of[0], m, tokens, self._memory, advance, kept)
            self._keep(group, [read_metrics(self._metrics, logits, tokens, prompts[0])], of[0])
            return
        wanted = [self._tokens[i] for i in group]
        every = None if None in wanted else list(dict.fromkeys(t for tokens in wanted for t in tokens))
        try:
            logits = fan_out_together(model, prompts, of, m, every, self._beginning)
        except (RuntimeError, IndexError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            self._apart(str(error))
            return
        place = {token: at for at, token in enumerate(every or ())}
        rows = []
        for of_prompt, tokens, prompt in zip(logits, wanted, prompts, strict=True):
            own = of_prompt if tokens is None else of_prompt[:, [place[t] for t in tokens]]
            rows.append(read_metrics(self._metrics, own, tokens, prompt))
        self._keep(group, rows, of[0])
        self._goes_together(group)
        if advance is not None and self._done.issuperset(group):
            advance(len(group) * self._branches.n)

    def _keep(self, group: Sequence[int], rows: Sequence[Float[Tensor, "metric row"]], branches: list[Branch]) -> None:
        for i, values in zip(group, torch.stack(list(rows)).cpu(), strict=True):  # one copy for all
            self._model.require_finite(values, [self._prompts[i]] * len(values))
            self.values[:, i] = values.numpy()
        self._done |= set(group)
        self.labels = tuple(b.label for b in branches)

    def _loop(
        self, i: int, branches: Sequence[Branch], advance: Callable[[int], None] | None = None
    ) -> Float[Tensor, "metric row"]:
        """One plain forward pass for each: slow, obvious, and right for every architecture."""
        prompt, tokens, rows = self._prompts[i], self._tokens[i], []
        for branch in [Branch((), "unedited"), *branches]:
            rows.append(edited_logits(self._model, prompt, branch.edits, self._spans[i], tokens))
            if advance is not None and branch.edits:
                advance(1)
        return read_metrics(self._metrics, torch.stack(rows), tokens, prompt)

    def _difference(self, i: int, check: int) -> float:
        """How far fan-out and plain passes are apart on one prompt, in the metric's unit or (of probabilities) in
        nats: the unedited row and ``check`` branches."""
        require_edits_act(self._model, self._prompts[0])
        while i not in self._done:
            self._run(next(group for group in self._grouped() if i in group))
        return self._compared(i, check)

    def _compared(self, i: int, check: int) -> float:
        """Of a prompt that the fan-out has given."""
        model, prompt = self._model, self._prompts[i]
        (branches,) = self._branches.of([i])
        chosen = spread(range(len(branches)), check) if check > 1 else [len(branches) // 2]
        fast = torch.from_numpy(self.values[0, i][[0, *(1 + at for at in chosen)]])
        slow = self._loop(i, [branches[at] for at in chosen])[0].cpu()
        model.require_finite(slow[None], [prompt])
        if isinstance(self._metrics[0], Probability):  # a difference of small probabilities would always pass
            fast, slow = fast.log(), slow.log()
        logits = partial(plain_logits, model, prompt)
        return difference_within_rounding(model, prompt, fast, slow, "the fan-out differs", "edits", logits)

    def _goes_together(self, group: Sequence[int]) -> None:
        """Hold the first and the last prompt of a group against plain passes, where groups of as many rows were not
        yet; apart from here on, where they differ."""
        n_rows = len(group) * (1 + self._branches.n)
        if rows_go_together(self._model, n_rows):
            return
        try:
            for i in (group[0], group[-1]):
                self._compared(i, 1)
        except FanOutDisagreement as error:
            self._apart(str(error))
        else:
            note_together(self._model, n_rows)

    def _apart(self, why: str) -> None:
        """Prompts one at a time, each whole: of this model from here on."""
        warnings.warn(f"prompts are scanned one at a time, not together: {why}", stacklevel=9)
        note_together(self._model, None)
        self._groups, self._done = None, set()

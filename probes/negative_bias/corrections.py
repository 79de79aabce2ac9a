"""Corrections of the bias as values: how they are tuned, what validation says of them, and each with its edit."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from math import isfinite
from typing import TYPE_CHECKING

import numpy as np

from interp.reports import later
from probes.negative_bias.answers import YES, Answers

if TYPE_CHECKING:
    from interp.edits import ModelEdit
    from interp.models import Model


@dataclass(frozen=True)
class Settings:
    """How heads are tuned. Defaults were chosen on validation questions of SmolLM2-135M and Qwen2.5-Coder-0.5B.

    ``k``: at most so many heads. ``steps``, ``batch_size``, ``weight_decay``: AdamW on each. ``learning_rate``: in
    units of the root mean square of a head's query rows, which differs 15-fold between models (0.24 in SmolLM2, 0.016
    in Qwen2.5), so that one value serves both; LoRA's (``lora_learning_rate``, of rank ``lora_rank``) is a plain one.
    ``check_every``: steps between two looks at the validation questions. ``patience``: a head stops after so many
    looks that are worse than its best, counted anew from each best. ``tolerance``: the validation gap counts as
    closed at this size. ``beyond_zero``: if it is still open when every head has stopped at a NAS of 0, go through
    the heads once more without that stop (ours). ``key_group``: tune the key rows that the head shares with its
    siblings too. ``every_format``: each domain of the questions is a format: heads must be high in all of them, and
    validation stops and chooses by the worst of them (``worst`` of :class:`State`, closed at ``format_tolerance``), so
    that a format without a bias is not pushed. ``keep``: weight of what holds the model to its own short answers to the
    training questions' open forms, where they have one (ours; 0: the loss of the gold answer alone): without it SmolLM2
    loses short answers (tests/benchmarks/negative_bias/choices.md). ``seed``: of the order of questions and of the
    random heads.

    Raises:
        ValueError: a number outside its range, and an odd ``batch_size``.
    """

    k: int = 5
    steps: int = 15
    batch_size: int = 16
    learning_rate: float = 0.006
    weight_decay: float = 0.0
    check_every: int = 3
    patience: int = 2
    tolerance: float = 0.06
    beyond_zero: bool = True
    key_group: bool = False
    every_format: bool = False
    format_tolerance: float = 0.12
    keep: float = 1.0
    lora_rank: int = 8
    lora_learning_rate: float = 3e-4
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("k", "steps", "check_every", "patience", "lora_rank"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}; expected 1 or more.")
        if self.batch_size < 2 or self.batch_size % 2:
            raise ValueError(f"batch_size={self.batch_size}; expected an even number: half Yes and half No.")
        for name in ("learning_rate", "lora_learning_rate"):
            if not (isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"{name}={getattr(self, name)}; expected a number above 0.")
        if not (isfinite(self.keep) and self.keep >= 0):
            raise ValueError(f"keep={self.keep}; expected 0 or more.")
        for name in ("weight_decay", "tolerance", "format_tolerance"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}; expected 0 or more, and below 1.")


@dataclass(frozen=True)
class State:
    """What validation says at one moment. ``gap`` is precision - recall of Yes under the forced choice, with a
    precision of 1 where Yes is never said (there is then no wrong Yes), so that it is 1 there instead of undefined.
    ``bias`` is a smooth measure of the same: |mean P(Yes) - share of gold Yes|, P being of the two options, over all
    questions plus its mean over the domains, so that opposite biases of two domains do not cancel; with
    ``every_format``, plus the largest of the domains, which is ``worst``.
    """

    gap: float
    bias: float
    accuracy: float
    auroc: float
    loss: float
    says_yes: float
    worst: float = 0.0

    def better_than(self, other: State) -> bool:
        """Less bias; where it is the same, a lower loss."""
        return (self.bias, self.loss) < (other.bias, other.loss)

    def worse_than(self, other: State, slack: float = 0.02) -> bool:
        """More bias, beyond the noise of a question or two, or a higher loss on the gold answers."""
        return self.bias > other.bias + slack or self.loss > other.loss

    def closed(self, settings: Settings) -> bool:
        """Whether the gap counts as closed, with ``every_format`` in the worst one too."""
        in_all = not settings.every_format or self.worst <= settings.format_tolerance
        return abs(self.gap) <= settings.tolerance and in_all

    def improves(self, best: State, before: State, settings: Settings) -> bool:
        """Whether to keep this rather than ``best``: better or closed, and not worse than ``before`` the update."""
        return not self.worse_than(before) and (self.better_than(best) or self.closed(settings))


@dataclass(frozen=True, eq=False)
class Method:
    """One way to correct the bias: an edit, or a constant added to the logit of the positive option."""

    name: str
    edit: ModelEdit | None = later(None)
    offset: float = 0.0
    n_parameters: int = 0
    seconds: float = 0.0
    note: str = ""
    validation: State | None = None

    def applied(self, model: Model) -> AbstractContextManager[None]:
        return nullcontext() if self.edit is None else self.edit.apply(model)

    def adjust(self, answers: Answers) -> Answers:
        """The answers with the constant in: probabilities of Yes and No move, their sum stays."""
        if not self.offset:
            return answers
        both = np.logaddexp(answers.log_probs[:, 0], answers.log_probs[:, YES])
        margin = answers.margin + self.offset
        log_probs = answers.log_probs.copy()
        log_probs[:, YES] = both - np.logaddexp(0, -margin)
        log_probs[:, 0] = both - np.logaddexp(0, margin)
        top = np.where(answers.top < 0, answers.top, (margin > 0).astype(int))
        return replace(answers, log_probs=log_probs, top=top)

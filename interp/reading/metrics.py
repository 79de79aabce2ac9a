"""What a scan measures at the answer: functions of the logits at the last position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from interp.door import public
from interp.prompts import Prompt


@public
@dataclass(frozen=True)
class LogitDifference:
    """Log odds of one answer against another: logit(positive) - logit(negative), in logits (nats).

    With several surface forms of a word: the difference of the logs of their summed (unnormalised) probabilities.
    The softmax normaliser cancels, so only these tokens are unembedded.
    """

    positive: str
    negative: str
    unit = "logits"
    needs_vocabulary = False

    def tokens(self, prompt: Prompt) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The tokens that count for each of the two answers of ``prompt``.

        Returns:
            Token ids of the positive answer, and of the negative one.

        Raises:
            ValueError: answers that share a token.
        """
        positive, negative = prompt.answer_tokens(self.positive), prompt.answer_tokens(self.negative)
        if set(positive) & set(negative):
            raise ValueError(
                f"prompt {prompt.id or prompt.text[:60]!r}: the answers {self.positive!r} and {self.negative!r} share "
                f"the token {min(set(positive) & set(negative))}, so no logit tells them apart. Give two answers that "
                "begin with different tokens."
            )
        return positive, negative

    def __call__(
        self, groups: tuple[Float[Tensor, "row _form"], ...], log_normaliser: Float[Tensor, " row"] | None
    ) -> Float[Tensor, " row"]:
        positive, negative = groups
        return positive.logsumexp(-1) - negative.logsumexp(-1)

    def __str__(self) -> str:
        return f"logit({self.positive}) - logit({self.negative})"


@public
@dataclass(frozen=True)
class Probability:
    """Probability of an answer word ("gold": each prompt's own), between 0 and 1, its surface forms summed.

    Needs the whole vocabulary's logits for each branch: slower than a difference. ``ScanResult.drop`` is the
    probability drop under an edit.
    """

    answer: str = "gold"
    unit = "probability"
    needs_vocabulary = True

    def tokens(self, prompt: Prompt) -> tuple[tuple[int, ...]]:
        """The tokens of ``prompt`` whose probabilities are summed.

        Returns:
            Their ids, as a tuple in a tuple of one.
        """
        return (prompt.answer_tokens(self.answer),)

    def __call__(
        self, groups: tuple[Float[Tensor, "row _form"], ...], log_normaliser: Float[Tensor, " row"] | None
    ) -> Float[Tensor, " row"]:
        if log_normaliser is None:
            raise ValueError("a probability needs the logits of the whole vocabulary.")
        return (groups[0].logsumexp(-1) - log_normaliser).exp()

    def __str__(self) -> str:
        return f"P({self.answer})"


@runtime_checkable
class OwnMetric(Protocol):
    """A metric of one's own: what :class:`LogitDifference` has.

    It is called with the logits of each group of tokens, [row, form], and the log of the softmax's normaliser where it
    needs the vocabulary, and gives a number for each row.
    """

    unit: str
    needs_vocabulary: bool

    def tokens(self, prompt: Prompt) -> tuple[Sequence[int], ...]: ...

    def __call__(
        self, groups: tuple[Float[Tensor, "row _form"], ...], log_normaliser: Float[Tensor, " row"] | None
    ) -> Float[Tensor, " row"]: ...


Metric = LogitDifference | Probability | OwnMetric


def default_metric(prompts: Sequence[Prompt]) -> LogitDifference:
    """The logit difference between the first and the second answer of the prompts, which have two."""
    words = list(prompts[0].answers) if prompts else []
    if len(words) != 2:
        raise ValueError(
            f"the prompts have {len(words)} answers {words}; without metric=, two are expected, for the logit "
            'difference between the first and the second: model.prompt(text, answers=["Yes", "No"]).'
        )
    return LogitDifference(*words)


def metric_values(metric: Metric, logits: Float[Tensor, "row vocabulary"], prompt: Prompt) -> Float[Tensor, " row"]:
    """The metric from full logits, float32: the obvious way."""
    logits = logits.float()
    groups = tuple(logits[:, list(ids)] for ids in metric.tokens(prompt))
    return metric(groups, logits.logsumexp(-1) if metric.needs_vocabulary else None)

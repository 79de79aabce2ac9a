"""The passes behind a ranking of visual heads: what the model answers unedited, and with each head ablated in turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from einops import rearrange

from interp.interventions import Branch, EachHead, ablate_each_head
from interp.models import Model
from interp.passes import around_borders, lengths_of
from interp.prompts import Prompt
from interp.reading import LogitDifference, Probability, mean_head_outputs
from interp.records import count_left
from interp.scans import Positions, scan_readings, span_length
from probes.heads import check_once
from probes.studies import Study
from probes.visual_semantics.questions import VisualExample
from probes.visual_semantics.questions.asked import NO, YES

Ablation = Literal["mean_of_others", "zero", "mean"]
ABLATIONS = ("mean_of_others", "zero", "mean")
Arrays = dict[str, np.ndarray]

GOLD = Probability("gold")
YES_MARGIN = LogitDifference(YES, NO)
_BY_HEAD = "example (layer head) -> example layer head"
_CHUNK = 64  # prompts whose pixels are in memory at once while a data-set mean is taken
_SLOW_S = 5.0  # a question that takes longer is the only one that a time estimate is measured on


class PromptsOf(Sequence[Prompt]):
    """The prompts of questions, built when they are read."""

    def __init__(self, examples: Sequence[VisualExample]) -> None:
        self._examples = examples

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return PromptsOf(self._examples[index])
        return self._examples[index].prompt


def read_clean(model: Model, batch: Sequence[VisualExample]) -> Arrays:
    """What the unedited model answers to each example of a batch: one forward pass each.

    ``gold_prob``: probability of the gold answer's first token. ``is_correct``: the most probable token of the whole
    vocabulary (``top_token``) is one of the gold answer's. ``option_prob``, ``option_correct``: the same among the
    options alone (NaN without any). ``yes_margin``: logit(yes) - logit(no). ``length``: tokens of the prompt.
    """
    prompts = [e.prompt for e in batch]
    logits = model.final_logits(prompts, batch_size=len(prompts))
    log_z = logits.logsumexp(-1)
    found: dict[str, list[float]] = {
        name: []
        for name in ("gold_prob", "is_correct", "top_token", "option_prob", "option_correct", "yes_margin", "length")
    }
    for example, prompt, row, z in zip(batch, prompts, logits, log_z, strict=True):
        of_gold = row[list(prompt.answer_tokens("gold"))]
        top = int(row.argmax())
        words = [word for word in dict.fromkeys(example.options) if word in prompt.answers]
        among = torch.stack([row[list(prompt.answers[w])].logsumexp(-1) for w in words]) if words else None
        gold_at = words.index(example.gold) if example.gold in words else None
        told = among is not None and gold_at is not None
        found["gold_prob"].append(float((of_gold.logsumexp(-1) - z).exp()))
        found["is_correct"].append(top in prompt.answer_tokens("gold"))
        found["top_token"].append(top)
        found["option_prob"].append(float(among.softmax(0)[gold_at]) if told else np.nan)
        found["option_correct"].append(float(among.argmax() == gold_at) if told else np.nan)
        yes, no = (row[list(prompt.answer_tokens(word))].logsumexp(-1) for word in (YES, NO))
        found["yes_margin"].append(float(yes - no))
        found["length"].append(len(prompt))
    kinds = {"is_correct": bool, "top_token": np.int64, "length": np.int64}
    return {name: np.array(values, dtype=kinds.get(name, np.float32)) for name, values in found.items()}


def clean_answers(examples: Sequence[VisualExample], study: Study) -> Arrays:
    """:func:`read_clean` of all examples, kept as a step of the study."""
    return study.run(examples, lambda batch: read_clean(study.model, batch), "clean")


class HeadScan:
    """Every head of a model ablated in turn on batches of examples; what all batches share is made once.

    ``how``, ``check``: of the scan, found out on prompts of all lengths that matter.
    """

    def __init__(
        self,
        model: Model,
        examples: Sequence[VisualExample],
        lengths: Sequence[int],
        ablation: Ablation,
        positions: Positions,
        memory_mib: float,
    ) -> None:
        self.model, self.positions, self.memory_mib = model, positions, memory_mib
        self.branches = head_branches(model, examples, ablation, positions)
        ends = [examples[i].prompt for i in around_borders(list(lengths), lengths_of(model).named)]
        self.how, self.check = check_once(model, ends, self.branches, GOLD, positions)

    def __call__(self, batch: Sequence[VisualExample]) -> Arrays:
        """``gold_prob`` and ``yes_margin`` [example], and the same ``_ablated`` [example, layer, head]."""
        prompts = [e.prompt for e in batch]
        gold, margin = scan_readings(
            self.model,
            prompts,
            self.branches,
            [GOLD, YES_MARGIN],
            positions=self.positions,
            method=self.how,
            check=0,
            memory_mib=self.memory_mib,
        )
        return {
            "gold_prob": gold.clean,
            "yes_margin": margin.clean,
            "gold_prob_ablated": rearrange(gold.values, _BY_HEAD, layer=self.model.n_layers),
            "yes_margin_ablated": rearrange(margin.values, _BY_HEAD, layer=self.model.n_layers),
        }

    @property
    def what(self) -> str:
        """For :func:`say_how_long`."""
        return f"{len(self.branches)} heads at positions {self.positions!r} by the {self.how}"


def say_how_long(
    study: Study,
    examples: Sequence[VisualExample],
    step: str,
    trial: Callable[[], tuple[Callable[[Sequence[VisualExample]], Arrays], str]],
    say: Callable[[str], None],
    n_plain: int = 1,
) -> None:
    """Say, before the first pass of a study, how long all that is left of it will take.

    ``trial`` gives the ``step``'s score and what it does, in words. Unedited passes (``n_plain`` for each question) and
    that score are measured on a question each, on two where they are quick; these are run again when their batch comes.
    Nothing is said, or run, where no work is left.
    """
    told, total = [], 0.0
    if left := count_left(len(examples), study.step("clean"), study.batch_size):
        each = n_plain * _seconds_each(lambda batch: read_clean(study.model, batch), examples)
        told.append(f"{left} questions unedited, {each:.2g} s each")
        total += left * each
    if left := count_left(len(examples), study.step(step), study.batch_size):
        score, what = trial()
        each = _seconds_each(score, examples)
        told.append(f"{left} questions x {what}, {each:.2g} s a question")
        total += left * each
    if told:
        say(f"{'; '.join(told)}: about {duration(total)}{' in all' if len(told) > 1 else ''}")


def _seconds_each(score: Callable[[Sequence[VisualExample]], Arrays], examples: Sequence[VisualExample]) -> float:
    """Seconds that a question takes; of two, if the first is quick, the second: the first pays for warming up."""
    seconds = 0.0
    for i in range(min(2, len(examples))):
        began = time.perf_counter()
        score(examples[i : i + 1])
        seconds = time.perf_counter() - began
        if seconds > _SLOW_S:
            break
    return seconds


def head_branches(
    model: Model, examples: Sequence[VisualExample], ablation: Ablation, positions: Positions
) -> list[Branch]:
    """One branch for each head; a data-set mean is that of all examples, at the positions that are ablated."""
    if ablation != "mean":
        return ablate_each_head(ablation).branches(model)
    return EachHead("mean").branches(model, mean_outputs(model, examples, positions))


def mean_outputs(model: Model, examples: Sequence[VisualExample], positions: Positions) -> torch.Tensor:
    """Each head's mean output over the examples and the positions, [layer, head, d_head], a few prompts at a time."""
    total, count = None, 0
    for start in range(0, len(examples), _CHUNK):
        prompts: list[Prompt] = [e.prompt for e in examples[start : start + _CHUNK]]
        lasts = [span_length(p, positions) for p in prompts]
        part = mean_head_outputs(model, prompts, lasts).double() * sum(lasts)
        total, count = part if total is None else total + part, count + sum(lasts)
    assert total is not None
    return (total / count).float()


def duration(seconds: float) -> str:
    """Seconds as a person would say them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

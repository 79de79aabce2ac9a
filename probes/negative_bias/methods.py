"""NASA, the tuning of negative heads one after another, and its rivals, as functions of one validated setting.

Every method gets the same training and validation questions and the same stop, and returns a :class:`Method`: an edit
of the weights or a constant to add, with what it cost. Source of NASA: arXiv 2408.00137; its learning rate, patience
and number of heads are not in any source that could be read and are parameters here.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from interp.door.brief import brief
from interp.edits import (
    HeadRows,
    TunedHeads,
    current_rows,
    describe_model,
    load_edit,
)
from interp.figures import head_label
from interp.fitting import HeadTuner, KeptAnswers
from interp.models import Model
from interp.passes import UpperLayers
from interp.statistics import auroc
from probes.negative_bias.answers import Answers, answers_from_arrays
from probes.negative_bias.asking import arrays_of_logits
from probes.negative_bias.corrections import Method, Settings, State
from probes.negative_bias.knowledge import open_prompts
from probes.negative_bias.nas import score_prompts
from probes.questions import Instruction, Question, build_prompts

log = logging.getLogger(__name__)
N_FOR_NAS = 8  # validation prompts on which a head's NAS is followed while it is tuned


@dataclass(eq=False)
class Bench:
    """The model, the two sets of questions as prompts, and the settings: what every method works with. ``about``:
    what every edit made here says of its origin."""

    model: Model
    training: Sequence[Question]
    validation: Sequence[Question]
    instruction: Instruction
    settings: Settings
    about: Mapping[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)

    __repr__ = brief

    def __post_init__(self) -> None:
        self.training_prompts = build_prompts(self.model, self.training, self.instruction)
        self.validation_prompts = build_prompts(self.model, self.validation, self.instruction)
        by_subject = {q.subject: q for q in self.training if q.open_question}
        self.kept = None  # what the untouched model says to the training questions' open forms
        if by_subject and self.settings.keep:
            asked = open_prompts(self.model, list(by_subject.values()))
            self.kept = KeptAnswers.of(self.model, asked, self.settings.keep)

    @cached_property
    def described(self) -> dict[str, Any]:
        """The weights that edits are for; hashing them takes a second for each GB."""
        return describe_model(self.model)

    @cached_property
    def untouched(self) -> Answers:
        """The validation questions answered by the untouched model: to be read before anything is changed."""
        return self.ask()

    def ask(self) -> Answers:
        """The validation questions answered by the model as it is now."""
        return self.answers(self.model.final_logits(self.validation_prompts, batch_size=16))

    def answers(self, logits) -> Answers:
        arrays = arrays_of_logits(logits, self.validation_prompts, self.instruction)
        return answers_from_arrays(arrays, self.validation, self.instruction)

    def state(self, answers: Answers) -> State:
        """What these answers to the validation questions come to."""
        state = validation_state(answers)
        if not self.settings.every_format:
            return state
        return replace(state, bias=state.bias + state.worst)

    def batches(self, n_steps: int, stream: int) -> Iterator[tuple[list[int], list[int]]]:
        """Positions of training questions, half Yes and half No in each batch, and of as many of what is kept; none
        twice in an epoch."""
        rng = np.random.default_rng((self.settings.seed, stream))
        gold = np.array([q.answer == "Yes" for q in self.training])
        size = self.settings.batch_size
        kept = np.arange(len(self.kept.prompts) if self.kept else 0)
        drawn = zip(
            _epochs(rng, np.flatnonzero(~gold), size // 2, n_steps),
            _epochs(rng, np.flatnonzero(gold), size // 2, n_steps),
            _epochs(np.random.default_rng((self.settings.seed, stream, 1)), kept, size, n_steps),
            strict=True,
        )
        return ((no + yes, same) for no, yes, same in drawn)

    def note(self, method: str, what: str, step: int, event: str, state: State, **more: Any) -> None:
        self.history.append({"method": method, "what": what, "step": step, "event": event, **asdict(state), **more})
        numbers = " ".join(f"{k} {v:.3f}" for k, v in {**asdict(state), **more}.items() if isinstance(v, float))
        log.info("%s %s step %d, %s: %s", method, what, step, event, numbers)


def _epochs(rng: np.random.Generator, items: np.ndarray, size: int, n_steps: int) -> Iterator[list[int]]:
    """``n_steps`` batches of ``size`` items, in a new order each time all were drawn; empty ones if there are none."""
    queue: list[int] = []
    for _ in range(n_steps):
        while len(items) and len(queue) < size:
            queue += rng.permutation(items).tolist()
        yield queue[:size]
        queue = queue[size:]


def validation_state(answers: Answers) -> State:
    """Gaps, accuracy and AUROC of the forced choice, and the mean loss of the gold answer in nats."""
    says_yes, gold = answers.margin > 0, answers.gold
    loss = -answers.log_probs[np.arange(len(gold)), gold.astype(int)].mean()
    p_yes = 1 / (1 + np.exp(-answers.margin))
    by_domain = pd.DataFrame({"domain": answers.domains, "p": p_yes, "gold": gold}).groupby("domain").mean()
    of_domains = (by_domain.p - by_domain.gold).abs()
    return State(
        gap=_gap(says_yes, gold),
        bias=float(abs(p_yes.mean() - gold.mean()) + of_domains.mean()),
        accuracy=float((says_yes == gold).mean()),
        auroc=float(auroc(answers.margin, gold)),
        loss=float(loss),
        says_yes=float(says_yes.mean()),
        worst=float(of_domains.max()),
    )


def _gap(says_yes: np.ndarray, gold: np.ndarray) -> float:
    hits = (says_yes & gold).sum()
    return float((hits / says_yes.sum() if says_yes.any() else 1.0) - hits / gold.sum())


def tune_heads(
    bench: Bench,
    heads: Sequence[tuple[int, int]],
    name: str,
    *,
    steps: Sequence[int] | None = None,
    progress: Path | None = None,
    key: str = "",
) -> Method:
    """Tune heads one after another, each from where the last left the model; the model is as before afterwards.

    A head stops when its NAS is no longer above 0 (in the first round), when validation has been worse than its best
    for ``patience`` looks, or when the gap is closed; its best rows are kept, or cancelled if they leave validation
    worse than it was. All stops when the gap is closed. With ``steps``, each of ``heads`` gets so many, whatever its
    NAS: for heads that are not chosen by it; a head may then come again. With ``progress``, each finished head is saved
    there and a second call goes on.
    """
    began, kept, undo, start, key = time.perf_counter(), [], [], 0, f"{key} {name}"
    model, settings, described, before = bench.model, bench.settings, bench.described, None
    if progress is not None and (found := _progress_of(progress, key)) is not None:
        kept, start, before = list(found.rows), found.about["n_done"], State(**found.about["validation"])
        began -= found.about["seconds"]
        bench.history += found.about["history"]
        undo.append(TunedHeads(described, {}, found.rows)._write(model))
    try:
        if before is None:  # kept with the progress: read again it would be rounded otherwise
            before = bench.state(bench.untouched)
            bench.note(name, "untouched", 0, "start", before)
        plan = _plan(heads, steps, settings)
        for number, (layer, head, given) in list(enumerate(plan))[start:]:
            if before.closed(settings):
                break
            rows, before = _tune_one(bench, name, layer, head, number, before, given)
            if rows:
                kept = [r for r in kept if (r.layer, r.head, r.kind) not in {(n.layer, n.head, n.kind) for n in rows}]
                kept += rows
                undo.append(TunedHeads(described, {}, rows)._write(model))
            if progress is not None:
                history = [h for h in bench.history if h["method"] == name]
                about = {"key": key, "n_done": number + 1, "history": history, "seconds": time.perf_counter() - began}
                about["validation"] = asdict(before)
                TunedHeads(described, about, tuple(kept)).save(progress)
    finally:
        for edit in reversed(undo):
            edit._write(model)
    n = sum(r.n_parameters for r in kept)
    about = {"method": name, "settings": asdict(settings), "validation": asdict(before)}
    edit = TunedHeads(described, {**bench.about, **about}, tuple(kept))
    labels = ", ".join(r.label for r in kept) or "every update was cancelled"
    return Method(name, edit, 0.0, n, time.perf_counter() - began, labels, before)


def _plan(
    heads: Sequence[tuple[int, int]], steps: Sequence[int] | None, settings: Settings
) -> list[tuple[int, int, int | None]]:
    """Each head with its number of steps, None where the head's NAS may stop it."""
    if steps is not None:
        return [(*head, n) for head, n in zip(heads, steps, strict=True)]
    again = [(*head, settings.steps) for head in heads] if settings.beyond_zero else []
    return [(*head, None) for head in heads] + again


def _progress_of(directory: Path, key: str) -> TunedHeads | None:
    if not (directory / "edit.json").is_file():
        return None
    try:
        found = load_edit(directory)
    except (ValueError, FileNotFoundError) as error:  # killed between its two files, or damaged
        warnings.warn(f"what was tuned before is not used, and tuned again: {error}", stacklevel=3)
        return None
    return found if isinstance(found, TunedHeads) and found.about.get("key") == key else None


def _tune_one(
    bench: Bench, name: str, layer: int, head: int, number: int, before: State, steps: int | None
) -> tuple[tuple[HeadRows, ...], State]:
    """The rows to keep (none if no look improved on the state before), and the state of validation with them."""
    model, settings, label = bench.model, bench.settings, head_label(layer, head)
    tuner = HeadTuner(
        model,
        layer,
        head,
        bench.training_prompts,
        learning_rate=settings.learning_rate * row_size(model, layer, head),
        weight_decay=settings.weight_decay,
        key_group=settings.key_group,
        kept=bench.kept,
    )
    upper = UpperLayers(model, bench.validation_prompts, layer)
    followed = bench.validation_prompts[:N_FOR_NAS]
    best, rows, strikes, why = before, (), 0, "steps used up"
    siblings = ", ".join(head_label(layer, h) for h in tuner.siblings)
    n_steps = steps or settings.steps
    for step, (batch, kept) in enumerate(bench.batches(n_steps, number), start=1):
        loss = tuner.step(batch, kept)
        if step % settings.check_every and step < n_steps:
            continue
        with tuner.applied():
            now = bench.state(bench.answers(upper.all_logits()))
            nas = float(score_prompts(model, followed)[:, layer, head].mean())
        bench.note(name, label, step, "look", now, training_loss=loss, nas=nas, siblings=siblings)
        if improved := now.improves(best, before, settings):
            best, rows, strikes = now, tuner.rows, 0
        else:
            strikes += now.worse_than(best)
        if improved and now.closed(settings):
            why = "gap closed"
        elif steps is None and nas <= 0:
            why = "NAS has reached zero"
        elif strikes >= settings.patience:
            why = "validation got worse"
        else:
            continue
        break
    bench.note(name, label, step, f"{'kept' if rows else 'cancelled'} ({why})", best)
    return rows, best


def row_size(model: Model, layer: int, head: int) -> float:
    """Root mean square of a head's query rows."""
    return float(current_rows(model, layer, head).weight.float().pow(2).mean().sqrt())

"""What an edit costs: ordinary text, yes/no questions, short answers and standard tasks before it and under it, in one
table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.door import public
from interp.edits import ModelEdit
from interp.edits.steering import Steering
from interp.models import Model
from interp.prompts import Prompt
from interp.reading.perplexity import perplexity, perplexity_ratio
from interp.statistics import UNKNOWN, Claim, Estimate, paired_share_change, wilson_share
from probes.negative_bias.asking import answers_of_prompts
from probes.negative_bias.knowledge import answer_open, open_prompts
from probes.negative_bias.task_scores import task_prompts, task_right
from probes.questions import Instruction, Question, StandardTask, build_prompts

UNTOUCHED, PERPLEXITY = "untouched", "perplexity ratio"
NOTE = (
    "perplexity_ratio: of ordinary text, to the untouched model; 1.01: one per cent worse. accuracy: yes/no questions "
    "whose right answer is the likelier one. open_accuracy: short replies that hold the answer. NAME_right: items of a "
    "standard task, asked without examples; NAME_guessing: the share right by guessing. _change: against the untouched "
    "model on the same examples (Bonett and Price 2012)."
)
_ASKED = {"accuracy": ("n_questions", "yes/no questions"), "open_accuracy": ("n_open", "short answers")}


@public
def edit_cost(
    model: Model,
    edits: Mapping[str, ModelEdit],
    texts: Sequence[str],
    questions: Sequence[Question] = (),
    open_questions: Sequence[Question] = (),
    *,
    tasks: Sequence[StandardTask] = (),
    instruction: Instruction | None = None,
    batch_size: int = 8,
) -> pd.DataFrame:
    """A row for the untouched model and for each edit: what is left of its ability.

    Args:
        model: the one that the edits are for; left as it was.
        edits: by name, of any kind; they act as hooks, as their folded and exported forms do.
        texts: ordinary passages, read without chat template.
        questions: yes/no questions, of any of the known formats; () for none.
        open_questions: questions with an open form and its answer, replied to greedily; () for none.
        tasks: standard tasks (:func:`probes.questions.load_task`), each asked in its own form: the likeliest letter of
            choices, the last number of a worked solution, a reply that is the target; () for none.
        instruction: how yes/no questions are asked; None: :class:`probes.questions.instructions.Instruction` as it is.
        batch_size: texts, questions and items in one pass.

    Returns:
        ``method``, ``n_texts``, ``perplexity_ratio``; ``n_questions``, ``accuracy`` and ``accuracy_change``;
        ``n_open``, ``open_accuracy`` and ``open_accuracy_change``; for each task ``NAME_n``, ``NAME_guessing`` (the
        share right by guessing), ``NAME_right`` and ``NAME_right_change``; each with its interval, what was not asked
        left out. :func:`cost_measures` has a row for each measure, :func:`cost_statement` the sentences.

    Raises:
        ValueError: no texts, an edit called "untouched", a question without the open form, two tasks of one name.

    Cost: for each edit and the untouched model a pass of every text, question and item with choices, a short reply to
    each open question, and a reply of up to ``StandardTask.reply_tokens`` to each other item.
    Misleads: a change that is not shown is not the absence of one: read the interval and n. A model that does no better
    than guessing has nothing to lose. Tasks are asked through the chat template without examples before them, so their
    shares are not those of leaderboards. An edit on a condition does not act on plain text, nor
    a steering of what a template puts behind a request (``"suffix"``): its ratio is 1.
    """
    if UNTOUCHED in edits:
        raise ValueError(f"an edit is called {UNTOUCHED!r}, as the model without any. Give it another name.")
    if without := [q.id for q in open_questions if not q.open_question]:
        raise ValueError(f"{len(without)} questions have no open form ({', '.join(without[:3])}); leave them out.")
    names = [task.name for task in tasks]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"two tasks are called {twice[0]!r}; expected names that differ. Give load_task a name=.")
    asking = instruction or Instruction()
    prompts = build_prompts(model, questions, asking) if len(questions) else []
    openly = open_prompts(model, open_questions) if len(open_questions) else []
    of_tasks = {task.name: task_prompts(model, task) for task in tasks}
    plain = [model.prompt(text, chat=False, text_only=model.has_vision) for text in texts if text]
    run = [*prompts, *openly, *(prompt for items in of_tasks.values() for prompt in items)]
    rows: list[dict[str, Any]] = []
    before: dict[str, Any] = {}
    for name, edit in {UNTOUCHED: None, **edits}.items():
        with nullcontext() if edit is None or not _acts_on(edit, plain) else edit.apply(model, plain):
            found: dict[str, Any] = {"text": perplexity(model, list(texts), batch_size=batch_size)}
        with nullcontext() if edit is None or not run else edit.apply(model, run):
            if prompts:
                said = answers_of_prompts(model, prompts, questions, asking, batch_size=batch_size)
                found["accuracy"] = (said.log_probs.argmax(1) == said.gold).astype(float)
            if len(open_questions):
                judged = answer_open(model, open_questions, batch_size=batch_size)
                found["open_accuracy"] = np.array([j.kind == "right" for j in judged], dtype=float)
            found |= {t.name: task_right(model, t, of_tasks[t.name], batch_size=batch_size) for t in tasks}
        before = before or found
        ratio = perplexity_ratio(found["text"], before["text"])
        row: dict[str, Any] = {"method": name, "n_texts": len(texts), "perplexity_ratio": ratio.value}
        row |= {f"perplexity_ratio_{end}": getattr(ratio.interval, end) for end in ("low", "high")}
        for measure, (count, _) in _ASKED.items():
            if measure in found:
                row |= {count: len(found[measure])} | _share(found[measure], before[measure], measure)
        for task in tasks:
            row |= {f"{task.name}_n": len(task.items), f"{task.name}_guessing": task.guessing}
            row |= _share(found[task.name], before[task.name], f"{task.name}_right")
        rows.append(row)
    frame = pd.DataFrame(rows)
    frame.attrs["note"] = NOTE
    return frame


@public
def cost_measures(cost: pd.DataFrame) -> pd.DataFrame:
    """What :func:`edit_cost` found, a row for each edit and measure.

    ``cost``: its table.

    Returns:
        ``method``, ``measure``, ``n``, ``guessing`` (NaN where it is not known), and ``before``, ``after`` and
        ``change`` with their intervals. Of perplexity, before is 1 and after the ratio.

    Cost: no pass.
    """
    untouched, *edited = cost.to_dict("records")
    tasks = [name.removesuffix("_right_change") for name in cost if str(name).endswith("_right_change")]
    measures = [(m, count, said, "") for m, (count, said) in _ASKED.items() if m in cost]
    measures += [(f"{task}_right", f"{task}_n", task, f"{task}_guessing") for task in tasks]
    rows: list[dict[str, Any]] = []
    for row in edited:
        ratio = Estimate.from_row(row, "perplexity_ratio")
        first = {"method": row["method"], "measure": PERPLEXITY, "n": row["n_texts"], "guessing": np.nan}
        first |= Estimate(1.0, np.nan, np.nan).columns("before") | ratio.columns("after") | UNKNOWN.columns("change")
        rows.append(first)
        for name, count, said, guessing in measures:
            found = {"method": row["method"], "measure": said, "n": row[count], "guessing": row.get(guessing, np.nan)}
            found |= Estimate.from_row(untouched, name).columns("before")
            found |= Estimate.from_row(row, name).columns("after")
            rows.append(found | Estimate.from_row(row, f"{name}_change").columns("change"))
    return pd.DataFrame(rows)


@public
def cost_statement(cost: pd.DataFrame) -> list[str]:
    """What :func:`edit_cost` found, in sentences: which measures changed, and which had nothing to lose.

    ``cost``: its table.

    Returns:
        A sentence for each edit and measure, and one for each task that the untouched model does not answer better
        than by guessing.

    Cost: no pass.
    """
    said: list[str] = []
    floors: dict[str, str] = {}
    for row in cost_measures(cost).to_dict("records"):
        of, n = f"{row['method']}, {row['measure']}", int(row["n"])
        if row["measure"] == PERPLEXITY:
            said.append(Claim(f"{of} to the untouched", Estimate.from_row(row, "after"), null=1.0, n=n).sentence())
            continue
        change = Estimate.from_row(row, "change")
        said.append(Claim(f"{of}, change of the share right", change, n=n, form="+.2f", against="no change").sentence())
        before = Claim("", Estimate.from_row(row, "before"), null=row["guessing"], side="above", n=n)
        if np.isfinite(row["guessing"]) and before.verdict != "too few" and not before.is_shown:
            floors[row["measure"]] = (
                f"{row['measure']}: the untouched model has {before.estimate:.2f} right, not shown to be above the "
                f"{before.null:.2f} of guessing, so there is nothing that an edit could be seen to cost."
            )
    return [*said, *floors.values()]


def _acts_on(edit: ModelEdit, plain: Sequence[Prompt]) -> bool:
    """Whether plain texts have the place that a steering is for. Of edits together each is asked by itself."""
    return (
        not isinstance(edit, Steering)
        or edit.positions in ("all", "answer")
        or all(prompt.spans.get(edit.positions) for prompt in plain)
    )


def _share(found: Float[np.ndarray, " example"], before: Float[np.ndarray, " example"], name: str) -> dict[str, float]:
    return wilson_share(found).columns(name) | paired_share_change(found, before).columns(f"{name}_change")

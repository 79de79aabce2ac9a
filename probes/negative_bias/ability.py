"""What an edit costs: ordinary text, yes/no questions and short answers before it and under it, in one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import pandas as pd

from interp.door import public
from interp.edits import ModelEdit
from interp.models import Model
from interp.reading.perplexity import perplexity, perplexity_ratio
from interp.statistics import paired_share_change, wilson_share
from probes.negative_bias.asking import answers_of_prompts
from probes.negative_bias.knowledge import answer_open
from probes.questions import Instruction, Question, build_prompts

UNTOUCHED = "untouched"
NOTE = (
    "perplexity_ratio: of ordinary text, to the untouched model; 1.01: one per cent worse. accuracy: yes/no questions "
    "whose right answer is the likelier one. open_accuracy: short replies that hold the answer. _change: against the "
    "untouched model on the same examples (Bonett and Price 2012)."
)


@public
def edit_cost(
    model: Model,
    edits: Mapping[str, ModelEdit],
    texts: Sequence[str],
    questions: Sequence[Question] = (),
    open_questions: Sequence[Question] = (),
    *,
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
        instruction: how yes/no questions are asked; None: :class:`probes.questions.instructions.Instruction` as it is.
        batch_size: texts and questions in one pass.

    Returns:
        ``method``, ``n_texts``, ``perplexity_ratio``; ``n_questions``, ``accuracy`` and ``accuracy_change``;
        ``n_open``, ``open_accuracy`` and ``open_accuracy_change``; each with its interval, what was not asked left out.

    Raises:
        ValueError: no texts, an edit called "untouched", and a question without the open form.

    Cost: for each edit and the untouched model a pass of every text and question, and a short reply to each open one.
    Misleads: a change that is not shown is not the absence of one: read the interval and n. An edit on a condition does
    not act on plain text.
    """
    if UNTOUCHED in edits:
        raise ValueError(f"an edit is called {UNTOUCHED!r}, as the model without any. Give it another name.")
    if without := [q.id for q in open_questions if not q.open_question]:
        raise ValueError(f"{len(without)} questions have no open form ({', '.join(without[:3])}); leave them out.")
    asking = instruction or Instruction()
    prompts = build_prompts(model, questions, asking) if len(questions) else []
    rows: list[dict[str, Any]] = []
    before: dict[str, Any] = {}
    for name, edit in {UNTOUCHED: None, **edits}.items():
        with nullcontext() if edit is None else edit.apply(model, prompts or None):
            found: dict[str, Any] = {"text": perplexity(model, list(texts), batch_size=batch_size)}
            if prompts:
                said = answers_of_prompts(model, prompts, questions, asking, batch_size=batch_size)
                found["accuracy"] = (said.log_probs.argmax(1) == said.gold).astype(float)
            if len(open_questions):
                judged = answer_open(model, open_questions, batch_size=batch_size)
                found["open_accuracy"] = np.array([j.kind == "right" for j in judged], dtype=float)
        before = before or found
        ratio = perplexity_ratio(found["text"], before["text"])
        row: dict[str, Any] = {"method": name, "n_texts": len(texts), "perplexity_ratio": ratio.value}
        row |= {f"perplexity_ratio_{end}": getattr(ratio.interval, end) for end in ("low", "high")}
        for measure, count in (("accuracy", "n_questions"), ("open_accuracy", "n_open")):
            if measure in found:
                row |= {count: len(found[measure])} | wilson_share(found[measure]).columns(measure)
                row |= paired_share_change(found[measure], before[measure]).columns(f"{measure}_change")
        rows.append(row)
    frame = pd.DataFrame(rows)
    frame.attrs["note"] = NOTE
    return frame

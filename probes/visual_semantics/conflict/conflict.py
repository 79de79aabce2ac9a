"""Which heads follow the words when text and picture disagree? Each head's push toward a wrong hint, beside the same
question after a right one.

For a question with gold answer g and a hinted wrong answer w, a head pushes by what its ablation takes away of
logit(w) - logit(g). What it *follows* is that push after the wrong hint less the push after the right one, which has as
many words: a head that is wrong about the picture, says No to anything, or does less for any longer question, has the
same push on both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from einops import rearrange

from interp.door import public
from interp.interventions import ablate_each_head
from interp.models import Model
from interp.passes import around_borders, lengths_of
from interp.prompts import Prompt
from interp.reading import LogitDifference, kinds_beside
from interp.records import Kept, hash_json, keeps_work
from interp.scans import Positions, scan_readings
from probes.heads import check_once
from probes.studies import Study, mass_read
from probes.visual_semantics.conflict.result import ASKED, PUSHED, ConflictHeads
from probes.visual_semantics.questions import Conflict, VisualExample, asking_of, describe_asked

HINTED = "hinted answer"
PUSH = LogitDifference(HINTED, "gold")
CITATIONS = [
    "Object hallucination asked with yes and no: POPE, arXiv 2305.10355. Leading hints, and the push less that of the "
    "plain question: ours.",
]
CAVEATS = [
    "A hint is a sentence of one wording; another wording may be followed by other heads.",
    "A hint is more text: what it does whatever it says is in the answers after a right one.",
    "Questions about one picture are not independent: intervals and p here are over pictures; those of the ranking for "
    "a modulation are not.",
]


@public
@keeps_work
def rank_conflict_heads(
    model: Model,
    conflict: Conflict,
    *,
    ablation: str = "mean_of_others",
    positions: Positions = "text",
    batch_size: int = 4,
    memory_mib: float = 1024.0,
    keep: Kept = None,
) -> ConflictHeads:
    """Ablate every head on questions after a wrong hint, after a right one, and without any.

    Args:
        model: with a vision part.
        conflict: questions with hints (:func:`probes.visual_semantics.questions.conflicts`).
        ablation: "mean_of_others", "zero".
        positions: where heads are ablated: "text" (after the picture), "answer", "all".
        batch_size: questions in a part file.
        memory_mib: that a chunk of edits may take beside the model.
        keep: where the work and the report are kept, if anywhere.

    Returns: pushes of every head, accuracies with and without hints; ``.ranking()`` is what ``modulate`` takes to turn
    the first heads down.

    Raises:
        ValueError: an unknown ablation, and a hinted answer that shares its first token with the gold one.

    Cost: three passes a question, and three scans at ``positions``.
    Misleads: a model that a sentence before the question confuses answers worse after a right hint too: read the three
    ways of asking beside each other.
    Source: ours; see the module.

    >>> heads = rank_conflict_heads(model, conflicts(examples))
    >>> modulate(model, heads.ranking(), examples, conflicts(others).both(), {"conflict": c.conflict, "plain": c.plain})
    """
    if ablation not in ("mean_of_others", "zero"):
        raise ValueError(f"ablation={ablation!r}; expected 'mean_of_others' or 'zero'.")
    asked = conflict.plain.asked
    hinted = [conflict.hinted[q.id] for q in asked]
    study = Study(
        "Heads that follow a hint",
        model,
        (e.prompt for part in (conflict.plain, conflict.conflict, conflict.agree) for e in part),
        data={**describe_asked(asked), "hinted_sha256": hash_json(hinted)},
        settings={
            "ablation": ablation,
            "positions": positions,
            "wording": conflict.wording,
            "asking": asking_of(conflict.conflict),
        },
        batch_size=batch_size,
        keep=keep,
        citation=CITATIONS,
        caveats=CAVEATS,
    )
    if study.found is not None:
        return study.found

    def prompts_of(name: str, places: Sequence[int]) -> list[Prompt]:
        return [_hinting(getattr(conflict, name)[i], hinted[i]) for i in places]

    def answer(batch: Sequence[int]) -> dict[str, np.ndarray]:
        read = [_answers(model, prompts_of(name, batch)) for name in ASKED]
        return {name: np.stack([one[name] for one in read], 1) for name in read[0]}

    answers = study.run(range(len(asked)), answer, "answers")
    lengths = answers.pop("length")
    borders = lengths_of(model).named
    ends = [
        prompt
        for column, name in enumerate(ASKED)
        for prompt in prompts_of(name, around_borders(lengths[:, column].tolist(), borders))
    ]
    branches = ablate_each_head(ablation).branches(model)
    how, check = check_once(model, ends, branches, PUSH, positions)
    scan = partial(scan_readings, model, positions=positions, method=how, check=0, memory_mib=memory_mib)

    def push(batch: Sequence[int]) -> dict[str, np.ndarray]:
        pushes = []
        for name in PUSHED:
            (found,) = scan(prompts_of(name, batch), branches, [PUSH])
            pushes.append(rearrange(found.drop, "example (layer head) -> example layer head", layer=model.n_layers))
        return {"push": np.stack(pushes, 1)}

    pushed = study.run(range(len(asked)), push, "scan")
    provenance = study.provenance(
        method=f"every head's {ablation} ablation at positions {positions!r}, exact",
        scan={"how": how, "check": check},
        **mass_read(model, [conflict.conflict[i].prompt for i in range(min(16, len(asked)))]),
        **kinds_beside(model),
    )
    return study.done(ConflictHeads(asked, tuple(hinted), **answers, **pushed, provenance=provenance))


def _hinting(example: VisualExample, hinted: str) -> Prompt:
    """The prompt, which knows its hinted answer by that name."""
    answers = example.prompt.answers
    if hinted not in answers or set(answers[hinted]) & set(example.prompt.answer_tokens("gold")):
        raise ValueError(
            f"question {example.id!r}: the hinted answer {hinted!r} has no first token of its own beside the gold "
            f"answer {example.gold!r}. Suggest another answer, or leave the question out."
        )
    return replace(example.prompt, answers={**answers, HINTED: answers[hinted]})


def _answers(model: Model, prompts: Sequence[Prompt]) -> dict[str, np.ndarray]:
    """Of each prompt, whether the most probable token is the gold answer's, whether it is the hinted one's, and how
    long it is."""
    top = model.final_logits(prompts, batch_size=len(prompts)).argmax(-1).tolist()
    found = {
        name: np.array([token in prompt.answer_tokens(word) for token, prompt in zip(top, prompts, strict=True)])
        for name, word in (("is_right", "gold"), ("follows", HINTED))
    }
    return found | {"length": np.array([len(prompt) for prompt in prompts])}

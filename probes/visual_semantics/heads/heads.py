"""Which heads help a vision-language model answer about an image, and which hurt? S+, S- and D, with evidence.

After "V-SEAM: Visual Semantic Editing and Attention Modulating for Causal Interpretability of Vision-Language Models"
(arXiv 2509.14837), by the formulas of its released code. Let p be the probability of the first token of the gold
answer, and p_h the same with head h ablated:

    S+(h) = mean over correctly answered questions of max(0, p - p_h)      positive heads
    S-(h) = mean over wrongly answered questions of max(0, p_h - p)        negative heads
    D(h)  = mean over all questions of p - p_h                             signed
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool

from interp.door import public
from interp.models import Model
from interp.reading import kinds_beside
from interp.records import Kept, keeps_work
from interp.scans import Positions
from probes.studies import Study, mass_read
from probes.visual_semantics.heads.passes import (
    ABLATIONS,
    Ablation,
    HeadScan,
    PromptsOf,
    clean_answers,
    say_how_long,
)
from probes.visual_semantics.heads.result import VisualHeads
from probes.visual_semantics.heads.scores import NAMES, SCORES
from probes.visual_semantics.questions import VisualExample, asked_of, asking_of, describe_asked

CITATIONS = [
    "V-SEAM: Visual Semantic Editing and Attention Modulating for Causal Interpretability of Vision-Language Models. "
    "arXiv:2509.14837 (scores and mean-of-other-heads substitution: its released code).",
    "Random signs as the null of a mean change: Fisher (1935), The Design of Experiments; effects at the answer: exact "
    "ablations by headscope's fan-out scan.",
]

CAVEATS = [
    "S+ and S- take only one side of each change, so noise alone makes them positive, the more so the more a head does "
    "at all: read them beside their floor, and p and q, which test the mean change.",
    "A positive head of questions answered Yes may only be a head that says Yes: see the gold answers apart, and the "
    "yes push.",
    "The probability of the first token is read whatever the model goes on to say; p can't fall below 0, so a head's "
    "S+ is bounded by how sure the model was.",
    "Questions about one picture are not independent: the study's own tables draw whole pictures, the statistics of a "
    "single ranking do not.",
]

_NEEDS = {"s_plus": "correctly", "s_minus": "wrongly", "signed_drop": ""}


@public
@keeps_work
def rank_visual_heads(
    model: Model,
    examples: Sequence[VisualExample],
    *,
    ablation: Ablation = "mean_of_others",
    positions: Positions = "all",
    scores: Sequence[str] = SCORES,
    batch_size: int = 4,
    memory_mib: float = 1024.0,
    keep: Kept = None,
    say: Callable[[str], None] | None = None,
) -> VisualHeads:
    """Ablate every head in turn on every question, and keep what that does to the gold answer.

    Args:
        model: with a vision part.
        examples: the questions, with pictures; each gets the same weight.
        ablation: a head's output replaced by the mean of the other heads of its layer at the same position
            ("mean_of_others", the paper's), by "zero", or by its "mean" over all examples.
        positions: where: "all" (the paper's), "text" (after the picture), "answer" (the last).
        scores: which are wanted, of "s_plus", "s_minus" and "signed_drop"; each needs questions of its kind.
        batch_size: questions in a batch; a killed run loses at most one.
        memory_mib: that a chunk of edits may take beside the model, which needs 8 bytes more a question and head.
        keep: where the work and the report are kept, if anywhere.
        say: gets one sentence before anything is run: how long it will take in all, measured on a question or two.

    Returns: probabilities of each question's gold answer, unedited [example] and with each head ablated [example,
    layer, head]; every score, floor, interval and ranking follows from these.

    Raises:
        ValueError: no questions, an unknown ablation or score, and no question is answered correctly (S+) or wrongly
            (S-); of fewer than 10 a report gives no order of heads (:meth:`VisualHeads.counts` flags them).

    Cost: one pass for each question, then at "all" half a pass for each head and question (LLaVA 1.5 7B: 512), at
    "text" and "answer" a few passes in all. A picture is encoded once.
    Misleads: S+ and S- are above 0 for noise, too: read them beside their ``floor``; a head that answers Yes to
    anything has a large ``yes_push``.
    Source: V-SEAM, arXiv 2509.14837; D, floors and intervals are ours.
    """
    ablation = ablation.replace("-", "_")
    scores = tuple(scores)
    if not len(examples):
        raise ValueError("no questions were given; a ranking needs at least one.")
    if ablation not in ABLATIONS:
        raise ValueError(f"ablation={ablation!r}; expected one of {', '.join(ABLATIONS)}.")
    if not scores or not set(scores) <= set(SCORES):
        raise ValueError(f"scores={scores}; expected some of {', '.join(SCORES)}.")
    asked = asked_of(examples)
    study = Study(
        "Visual heads",
        model,
        (example.prompt for example in examples),
        data=describe_asked(asked),
        settings={"ablation": ablation, "positions": positions, "scores": list(scores), "asking": asking_of(examples)},
        batch_size=batch_size,
        keep=keep,
        citation=CITATIONS,
        caveats=CAVEATS,
        need_mib=20 + 24 * len(examples) * model.n_layers * model.n_heads / 2**20,
    )
    if study.found is not None:
        return study.found
    if say is not None:

        def trial() -> tuple[HeadScan, str]:
            scan = HeadScan(model, examples[:1], [0], ablation, positions, memory_mib)
            return scan, scan.what

        n_plain = 2 if ablation == "mean" else 1  # the answers, and the mean over all questions
        say_how_long(study, examples, "scan", trial, say, n_plain)
    clean = clean_answers(examples, study)
    _require_answers(clean["is_correct"], scores)
    scan = HeadScan(model, examples, clean["length"], ablation, positions, memory_mib)
    found = study.run(examples, scan, "scan")
    provenance = study.provenance(
        method=f"every head's {ablation} ablation at positions {positions!r}, exact; first token of the gold answer",
        scan={"how": scan.how, "check": scan.check},
        left_out=dict(getattr(examples, "left_out", {})),
        says=_said(model, clean["top_token"]),
        **mass_read(model, PromptsOf(examples), batch_size),
        **kinds_beside(model),
    )
    heads = VisualHeads(
        asked=asked,
        is_correct=clean["is_correct"],
        option_prob=clean["option_prob"],
        option_correct=clean["option_correct"],
        gold_prob=found["gold_prob"],
        gold_prob_ablated=found["gold_prob_ablated"],
        yes_margin=found["yes_margin"],
        yes_margin_ablated=found["yes_margin_ablated"],
        provenance=provenance,
    )
    return study.done(heads)


def _require_answers(is_correct: Bool[np.ndarray, " example"], scores: Sequence[str]) -> None:
    n, n_right = len(is_correct), int(is_correct.sum())
    counts = {"s_plus": n_right, "s_minus": n - n_right, "signed_drop": n}
    if missing := [score for score in scores if not counts[score]]:
        rest, lacking = tuple(score for score in scores if score not in missing), missing[0]
        raise ValueError(
            f"{n_right} of {n} questions are answered correctly and {n - n_right} wrongly; {NAMES[lacking]} is a mean "
            f"over those answered {_NEEDS[lacking]}. Ask {'easier' if n_right == 0 else 'harder'} questions (or more), "
            f"or leave that score out: scores={rest}."
        )


def _said(model: Model, tokens: np.ndarray) -> dict[str, int]:
    """The most probable first tokens, as text, and how often each came: the twelve most frequent."""
    counts = Counter(tokens.tolist()).most_common(12)
    texts: Counter[str] = Counter()
    for token, count in counts:
        texts[model.tokenizer.decode([token])] += count
    return dict(texts)

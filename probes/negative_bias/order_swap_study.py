"""What does a ranking of heads rest on: the words, or the order in which the instruction names them?

The same questions are asked in every wording of the instruction, with every pair of option words, in both orders. The
design is crossed, so that the variance of heads' scores falls into parts: what a head keeps everywhere, and what the
order, the pair, the wording and the questions make of it. After arXiv 2510.00845, which asks for this of circuits.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from interp.door import public
from interp.models import Model
from interp.prompts import Prompt
from interp.reading import LogitDifference
from interp.records import Kept, keeps_work
from probes.heads import Ablation, HeadEffects
from probes.negative_bias.asking import arrays_of_logits
from probes.negative_bias.nas import CITATIONS as NAS_CITATIONS, QuerySpan, require_query_span, score_prompts
from probes.negative_bias.order_swap_result import OrderSwap
from probes.questions import Instruction, Question, build_prompts, describe_questions
from probes.studies import Study, mass_read

WORDINGS = (
    "Answer the question with {positive} or {negative}.",
    "Please read the question below and reply with one word alone, {positive} or {negative}.",
    "{positive} or {negative}? Decide, and say nothing else.",
)
PAIRS = (("Yes", "No"), ("True", "False"), ("Correct", "Incorrect"), ("A", "B"))
PREAMBLE = {("A", "B"): "A stands for Yes, B for No.\n"}  # letters mean nothing by themselves
CITATIONS = [
    *NAS_CITATIONS,
    "Variance of a ranking over inputs, wordings and options: asked for by Mechanistic Interpretability as Statistical "
    "Estimation (2025), arXiv:2510.00845. The wordings and the decomposition are headscope's.",
]
CAVEATS = [
    "Shares of variance are of these wordings, pairs and questions: wordings that are more alike would have less.",
    "An option word of two tokens takes more attention than one of one token (the table says how many each has).",
    "With letters the order of the instruction changes, and what each letter stands for does not.",
    "Effects are at the answer, of single heads; NAS sums over every token after the instruction.",
]


@public
@keeps_work
def order_swap(
    model: Model,
    questions: Sequence[Question],
    *,
    wordings: Sequence[str] = WORDINGS,
    pairs: Sequence[tuple[str, str]] = PAIRS,
    n_effects: int = 20,
    ablation: Ablation = "zero",
    query_span: QuerySpan = "after_instruction",
    batch_size: int = 4,
    keep: Kept = None,
) -> OrderSwap:
    """NAS of every head, and its exact effect at the answer, in all wordings, option pairs and both orders.

    Says how many of the heads of highest NAS keep their sign when the options change places, how much of the variance
    of heads' scores the order holds beside wording, pair and questions, and whether NAS goes with what heads do.

    Cost: one pass for each question, wording, pair and order (24 by default), and about four more for those that have
    effects: SmolLM2 on one core about 3 s a question, and 15 s with effects. Misleads where the model uses another word
    than the options: the table says how much of the probability they hold.

    Args:
        model: a loaded model.
        questions: yes/no questions.
        wordings: of the instruction, each with ``{positive}`` and ``{negative}`` once, in that order.
        pairs: option words, the one that is right for Yes first. ("A", "B") gets a line that says what they stand for.
        n_effects: how many of the questions, from the first on, have effects too; 0: none.
        ablation: what a head is replaced by for its effect.
        query_span: the tokens that NAS sums over, as of :func:`rank_heads`.
        batch_size: questions in a pass and in a part file.
        keep: the folder for the report, and for the work before it, batch by batch (:class:`interp.Keep`); its
            ``origin`` is recorded as where the questions came from.

    Returns:
        Scores of every head by question, wording, pair and order (NAS in nats, effects in logits), and tables of them.

    Raises:
        ValueError: fewer than two questions, wordings without a place for both options, options that share a token.
        FileExistsError: a folder with another run's work.

    Source: NAS of arXiv 2408.00137; the design is ours.
    """
    questions, wordings, pairs = list(questions), tuple(wordings), tuple((str(a), str(b)) for a, b in pairs)
    n_effects = min(n_effects, len(questions))
    _require(questions, wordings, pairs, n_effects)
    asked = {key: instruction_of(*key) for key in itertools.product(wordings, pairs, (False, True))}
    prompts = {key: build_prompts(model, questions, instruction) for key, instruction in asked.items()}
    for of_one in prompts.values():
        require_query_span(of_one, query_span)
    settings: dict[str, Any] = {"wordings": list(wordings), "pairs": [list(pair) for pair in pairs]}
    settings |= {"n_effects": n_effects, "ablation": ablation, "query_span": query_span}
    study = Study(
        "Order of the options",
        model,
        itertools.chain(*prompts.values()),
        data=describe_questions(questions),
        settings=settings,
        batch_size=batch_size,
        keep=keep,
        citation=CITATIONS,
        caveats=CAVEATS,
    )
    if study.found is not None:
        return study.found
    shape = (len(wordings), len(pairs), 2)

    def crossed(of_conditions: Sequence[np.ndarray]) -> np.ndarray:
        """[example, wording, pair, order, ...] from an array for each condition."""
        stacked = np.stack(of_conditions, axis=1)
        return stacked.reshape(len(stacked), *shape, *stacked.shape[2:])

    def nas(batch: Sequence[int]) -> dict[str, np.ndarray]:
        scores = [score_prompts(model, [p[i] for i in batch], query_span) for p in prompts.values()]
        return {"nas": crossed(scores)}

    found = study.run(range(len(questions)), nas, step="nas")
    measured: dict[tuple[str, str], HeadEffects] = {}

    def effects(batch: Sequence[int]) -> dict[str, np.ndarray]:
        scores, log_probs = [], []
        for (_, pair, _), of_one in prompts.items():
            if pair not in measured:
                every: list[Prompt] = [p for key, some in prompts.items() if key[1] == pair for p in some]
                measured[pair] = HeadEffects(model, every, LogitDifference(pair[1], pair[0]), ablation)
            chosen = [of_one[i] for i in batch]
            scores.append(measured[pair].measure(chosen, direct=False)["total_effect"])
            logits = model.final_logits(chosen, batch_size=len(chosen))
            log_probs.append(arrays_of_logits(logits, chosen, Instruction(*_words(pair)))["log_probs"])
        return {"effects": crossed(scores), "log_probs": crossed(log_probs)}

    if n_effects:
        found |= study.run(range(n_effects), effects, step="effects")
    none = np.zeros((0, *found["nas"].shape[1:]), dtype=np.float32)
    tokens = [[len(prompts[wordings[0], pair, False][0].span(s)) for s in ("positive", "negative")] for pair in pairs]
    plain = prompts[wordings[0], pairs[0], False]
    return study.done(
        OrderSwap(
            wordings=wordings,
            pairs=pairs,
            ids=tuple(q.id for q in questions),
            groups=tuple(q.group for q in questions),
            gold_yes=np.array([q.answer == "Yes" for q in questions]),
            nas=found["nas"].astype(np.float32),
            effects=found.get("effects", none).astype(np.float32),
            log_probs=found.get("log_probs", none[..., 0, :2]),
            n_tokens=np.array(tokens),
            provenance=study.provenance(**mass_read(model, plain, batch_size)),
        )
    )


def instruction_of(wording: str, pair: tuple[str, str], swapped: bool = False) -> Instruction:
    """A wording with a pair of options in it, in the order written or with the two in each other's place."""
    positive, negative = pair
    text = wording.replace("{positive}", positive).replace("{negative}", negative)
    layout = PREAMBLE.get(pair, "") + "{instruction}\n{context}Question: {question}"
    instruction = Instruction(text, positive, negative, layout)
    return instruction.swapped() if swapped else instruction


def _words(pair: tuple[str, str]) -> tuple[str, str, str]:
    return f"{pair[0]} or {pair[1]}", *pair


def _require(questions: Sequence[Question], wordings: Sequence[str], pairs: Sequence, n_effects: int) -> None:
    if len(questions) < 2 or n_effects == 1 or n_effects < 0:
        raise ValueError(
            f"{len(questions)} questions, {n_effects} of them with effects; expected 2 or more of each, or no effects: "
            "intervals are over questions."
        )
    if not pairs or not wordings or len(set(pairs)) < len(pairs) or len(set(wordings)) < len(wordings):
        raise ValueError(f"{len(wordings)} wordings and {len(pairs)} pairs; expected one or more of each, each once.")
    for wording in wordings:
        at = wording.find("{positive}"), wording.find("{negative}")
        if wording.count("{positive}") != 1 or wording.count("{negative}") != 1 or at[0] > at[1]:
            raise ValueError(f"the wording {wording!r} must hold {{positive}} and then {{negative}}, each once.")

"""Negative Attention Score: which heads attend to "No" in the instructions of a yes/no question, whatever it asks?

Negative Attention Score (NAS) after Yu et al. 2025, "Correcting Negative Bias in Large Language Models through
Negative Attention Score Alignment" (arXiv 2408.00137). The paper's limits of the sum over query tokens could only be
read second-hand; they are the parameter ``query_span`` here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import zip_longest
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.door import public
from interp.locating import Looked, provenance_beside, require_screen
from interp.models import Model
from interp.prompts import Prompt
from interp.rankings import HeadRanking, Measure
from interp.reading import LogitDifference, attention_log_probs, kinds_beside
from interp.records import Kept, keeps_work
from interp.scans import Positions
from probes.heads import Ablation, HeadEffects, screened_effects, token_views, why_no_attribution
from probes.negative_bias.head_measures import MEASURES
from probes.prompt_pairs import BuiltPairs, pair_prompts, record_of_sets, require_sets
from probes.questions import Instruction, Question, build_prompts, describe_questions
from probes.studies import Study, mass_read

QuerySpan = Literal["after_instruction", "answer", "all", "question"]

CITATIONS = [
    "Yu, S., Song, J., Hwang, B., Kang, H., Cho, S., Choi, J., Joe, S., Lee, T., Gwon, Y., Yoon, S. (2025). "
    "Correcting Negative Bias in Large Language Models through Negative Attention Score Alignment. NAACL 2025 "
    "(Long Papers), 9979-10001. arXiv:2408.00137.",
    "Effects at the answer: exact ablations by headscope's fan-out scan, and direct logit attribution after Elhage "
    "et al. (2021), A Mathematical Framework for Transformer Circuits.",
]
CAVEATS = [
    "NAS says where a head looks, not what it does: read it beside the effects.",
    "The usual instruction names Yes before No, so a preference for later tokens alone gives NAS above 0. Heads whose "
    "sign turns with the swapped order are about position; the order-balanced NAS keeps what is about the word.",
    "The paper's exact limits of the sum and its probing sets were not available; query_span is our parameter.",
    "A sign-flip p value speaks of the mean over these questions; it does not say that a head matters.",
]


@public
def negative_attention_score(
    log_probs: Float[Tensor, "layer head query 2"],
) -> Float[Tensor, "layer head"]:
    """NAS from log attention to (positive, negative) option words: sum over queries of (A_yes + A_no) log(A_no/A_yes).

    Above 0: more attention to the negative word; near 0: equal attention, or a head that looks at neither. Swapping
    the words negates it; it is additive over query positions. Queries from which either word is masked (beyond a
    sliding window) are left out; NaN stays NaN. Source: arXiv 2408.00137, as given in the survey arXiv 2409.03752,
    Eq. 7.

    ``log_probs`` [layer, head, query, 2]: natural logs of attention, the positive word first.

    Returns:
        [layer, head], nats.

    Cost: no pass.
    Misleads: it says where a head looks, not what it does: a head that merely looks at the later option has one, too.
    """
    positive, negative = log_probs.unbind(-1)
    seen = (positive > -torch.inf) & (negative > -torch.inf)
    ratio = torch.where(seen, negative - positive, 0.0)
    weight = torch.where(seen, positive.exp() + negative.exp(), 0.0)
    return (weight * ratio).sum(-1)


def query_positions(prompt: Prompt, span: QuerySpan) -> tuple[int, ...]:
    """The query positions that NAS sums over.

    ``after_instruction``: every token after the instruction, to the last of the template; ``question``: the
    question's own; ``answer``: the last; ``all``: every position that can see both option words.
    """
    end = len(prompt)
    last_option = max(*prompt.span("positive"), *prompt.span("negative"))
    if span == "answer":
        return (end - 1,)
    if span == "all":
        return tuple(range(last_option, end))
    if span == "question":
        return tuple(p for p in prompt.span("question") if p >= last_option)
    if span == "after_instruction":
        return tuple(range(prompt.span("instruction")[-1] + 1, end))
    raise ValueError(f"query_span={span!r}; expected 'after_instruction', 'answer', 'all' or 'question'.")


def require_query_span(prompts: Sequence[Prompt], span: QuerySpan) -> list[tuple[int, ...]]:
    """The query positions of each prompt; ``ValueError`` for an unknown span or a prompt in which it is empty."""
    queries = [query_positions(p, span) for p in prompts]
    if empty := [p.id for p, q in zip(prompts, queries, strict=True) if not q]:
        raise ValueError(
            f"query_span={span!r} is empty for prompt {empty[0]!r}: the question stands before the options. "
            "Use query_span='answer', or a layout with the instruction first."
        )
    return queries


@public
def score_prompts(
    model: Model, prompts: Sequence[Prompt], query_span: QuerySpan = "after_instruction"
) -> Float[np.ndarray, "example layer head"]:
    """NAS of every head for one batch of prompts: one forward pass, no S x S tensor.

    ``model``: whose heads. ``query_span``: the tokens whose attention counts, as of :func:`rank_heads`.

    Returns:
        [example, layer, head], nats.
    """
    return _score_and_masked(model, prompts, query_span)[0]


def _score_and_masked(
    model: Model, prompts: Sequence[Prompt], query_span: QuerySpan
) -> tuple[Float[np.ndarray, "example layer head"], Float[np.ndarray, " example"]]:
    """NAS, and the share of a prompt's queries (over heads) that cannot see one of the option words."""
    queries = require_query_span(prompts, query_span)
    keys = [(p.span("positive"), p.span("negative")) for p in prompts]
    log_probs = attention_log_probs(model, prompts, queries, keys)
    masked = [torch.isneginf(lp).any(-1).float().mean() for lp in log_probs]
    return torch.stack([negative_attention_score(lp) for lp in log_probs]).numpy(), torch.stack(masked).numpy()


@public
@keeps_work
def rank_heads(
    model: Model,
    questions: Sequence[Question],
    *,
    query_span: QuerySpan = "after_instruction",
    instruction: Instruction | None = None,
    forms: str = "in_context",
    effects: Ablation | None = None,
    n_views: int = 3,
    sets: int = 0,
    batch_size: int = 8,
    keep: Kept = None,
) -> HeadRanking:
    """Rank every head by Negative Attention Score over a set of questions.

    The measures are ``nas`` (ranked), ``nas_swapped_order`` (the control: options in the other order) and
    ``nas_order_balanced`` (their mean). With ``effects``, also ``total_effect`` (exact: log odds of "No" against
    "Yes" lost at the answer when the head is ablated so) and ``direct_effect`` (direct logit attribution).

    Misleads where heads merely look at the later option: read the control.

    Args:
        model: a loaded model.
        questions: yes/no questions, each an example.
        query_span: the query tokens that NAS sums over (:func:`query_positions`).
        instruction: how they are put, and the two options; by default "Answer the question with Yes or No.".
        forms: "in_context", or "both": an answer word with and without a leading space, summed (there is then no direct
            effect, a log of a sum not being one).
        effects: what ablated heads are replaced by, to measure effects too; None: no effects.
        n_views: questions on which the report shows what the first five heads read; 0: none.
        sets: weigh the first so many heads as a set (:func:`interp.circuits.weigh_first`), on some of the questions,
            each beside one with the other answer (:func:`probes.prompt_pairs.pair_prompts`); 0: not.
        batch_size: questions in a pass and in a part file.
        keep: the folder for the report, and for the work before it, batch by batch (:class:`interp.Keep`); its
            ``origin`` is recorded as where the questions came from.

    Returns:
        The ranking: each measure [example, layer, head]; NAS in nats, effects in logits.

    Raises:
        ValueError: no questions, options that share a token, instructions without them.
        OSError: a folder that can't be written.
        FileExistsError: one that holds another run's report or work.

    Cost of a question, in plain passes: 3 without effects; with them 4 + 1.17 u, u = 1 + (1 + N (L + 1) / 2L) / S
    being a scan of N heads in L layers at S tokens (SmolLM2 at 56: u = 3.5, so 8.1). Once, some 28 for what the model
    is and shares, and 15 for the scan's check. With ``sets`` some 100 for each of 20 questions.
    Source: arXiv 2408.00137; both orders and the balanced mean are ours.
    """
    instruction = instruction or Instruction()
    effects = effects.replace("-", "_") if effects else None
    plain, swapped = _both_orders(model, questions, instruction, forms)
    require_query_span([*plain, *swapped], query_span)
    settings = {"instruction": asdict(instruction), "forms": forms, "query_span": query_span, "effects": effects}
    study = _study("Negative Attention Score", model, plain, swapped, questions, settings, sets, batch_size, keep)
    if study.found is not None:
        return study.found
    built = _paired(model, plain, questions, sets)
    mass = mass_read(model, plain, batch_size=batch_size)
    metric = LogitDifference(instruction.negative, instruction.positive)
    measured = HeadEffects(model, plain, metric, effects) if effects else None

    def score(batch: Sequence[tuple[Prompt, Prompt]]) -> dict[str, np.ndarray]:
        first, second = ([pair[i] for pair in batch] for i in (0, 1))
        nas, masked = _score_and_masked(model, first, query_span)
        control, _ = _score_and_masked(model, second, query_span)
        found = {"nas": nas, "nas_swapped_order": control, "masked_queries": masked}
        return found | (measured.measure(first) if measured else {})

    arrays = study.run(list(zip(plain, swapped, strict=True)), score, prompts=plain)
    arrays["nas_order_balanced"] = (arrays["nas"] + arrays["nas_swapped_order"]) / 2
    method = f"NAS over query span {query_span!r}, both orders of the options"
    if effects:
        mass |= provenance_beside(Looked(model, plain, metric, "answer", arrays["total_effect"], ablation=effects))
    ranking = _with_sets(
        _ranking(study, "nas", arrays, questions, instruction, method, measured, mass), model, built, sets
    )
    return study.done(_with_views(ranking, model, plain, questions, metric, n_views))


@public
@keeps_work
def rank_by_effect(
    model: Model,
    questions: Sequence[Question],
    *,
    ablation: Ablation = "zero",
    positions: Positions = "answer",
    screen: Literal["gradient", "bfloat16"] | None = None,
    top: int = 10,
    instruction: Instruction | None = None,
    forms: str = "in_context",
    n_views: int = 3,
    sets: int = 0,
    batch_size: int = 16,
    keep: Kept = None,
) -> HeadRanking:
    """Rank every head by what ablating it does to the answer: exact, in logits of "No" against "Yes".

    The score ``total_effect`` is clean minus ablated: above 0, the head pushes toward "No". Beside it the same in
    the swapped order (the control), and at positions="answer" the ``direct_effect``.

    Args:
        model, questions, instruction, forms, n_views, sets, batch_size, keep: as in :func:`rank_heads`; of ``sets``,
            heads are replaced at all positions.
        ablation: what a head's output is replaced by: zero, the mean of the layer's other heads, or its own mean over
            the questions.
        positions: where: "answer", "all", or the last so many tokens.
        screen: first measure all heads roughly, by a "gradient" (3 plain passes, whatever the positions) or by scans in
            "bfloat16" (faster on a GPU; slower on a CPU without AMX); then exactly those whose interval reaches the
            first ``top``. None: all exactly.
        top: with ``screen``, of how many first heads the order is to be that of exact effects.

    Returns:
        The ranking: each measure [example, layer, head], in logits. With ``screen``, the column ``measured`` of its
        table and ``provenance["screen"]`` say which heads are exact; the others have the screen's numbers.

    Raises:
        ValueError, OSError, FileExistsError: as :func:`rank_heads`.

    Misleads: where the options hold little of the probability, their log odds are of what the model would not say.
    Cost of a question, in plain passes: 2 + 2.33 u at the answer, u being a scan as :func:`interp.scan` says it
    (SmolLM2 at 56 tokens: 10.2), 1 + 2.33 u elsewhere (at "all" 327); 2 more for a mean; less what the questions share
    at their beginning. Once, some 58 (68 at "all") for what the model is and shares, and the scans' checks: of 30
    questions 2 for each.
    Source: exact ablation by :func:`interp.scan`; direct effects after Elhage et al. (2021).
    """
    instruction = instruction or Instruction()
    ablation = ablation.replace("-", "_")
    plain, swapped = _both_orders(model, questions, instruction, forms)
    require_screen(screen, top, model.n_layers * model.n_heads)
    settings = {"instruction": asdict(instruction), "forms": forms, "ablation": ablation, "positions": positions}
    settings |= {"screen": screen, "top": top} if screen else {}
    study = _study("Head effect", model, plain, swapped, questions, settings, sets, batch_size, keep, not screen)
    if study.found is not None:
        return study.found
    built = _paired(model, plain, questions, sets)
    mass = mass_read(model, plain, batch_size=batch_size)
    metric = LogitDifference(instruction.negative, instruction.positive)
    in_order = HeadEffects(model, plain, metric, ablation, positions)
    in_other = HeadEffects(model, swapped, metric, ablation, positions)

    def score(batch: Sequence[tuple[Prompt, Prompt]]) -> dict[str, np.ndarray]:
        first, second = ([pair[i] for pair in batch] for i in (0, 1))
        control = in_other.measure(second, direct=False)["total_effect"]
        return in_order.measure(first) | {"total_effect_swapped_order": control}

    items, method = list(zip(plain, swapped, strict=True)), f"{ablation} ablation at positions {positions!r}, exact"
    if screen is None:
        arrays = study.run(items, score, prompts=plain)
        looked = Looked(model, plain, metric, positions, arrays["total_effect"], ablation=ablation, scans=2)
        more = mass | provenance_beside(looked)
    else:
        orders = (in_order, in_other)
        arrays, screened = screened_effects(study, items, orders, screen, top, ablation, positions)
        method = f"{method} for {len(screened.heads)} heads, the others by {screen}"
        more = mass | {"screen": screened.record(), "beside": [screened.sentence()]}
    ranking = _ranking(study, "total_effect", arrays, questions, instruction, method, in_order, more)
    ranking = _with_sets(ranking, model, built, sets)
    return study.done(_with_views(ranking, model, plain, questions, metric, n_views))


def _both_orders(model, questions, instruction, forms) -> tuple[list[Prompt], list[Prompt]]:
    if not questions:
        raise ValueError("no questions were given; a ranking needs at least one.")
    plain, swapped = (
        build_prompts(model, questions, order, forms=forms) for order in (instruction, instruction.swapped())
    )
    return plain, swapped


def _study(title, model, plain, swapped, questions, settings, sets, batch_size, keep: Kept, streams=True) -> Study:
    """The run of a ranking: it reads each question in both orders."""
    require_sets(model, sets)
    return Study(
        title,
        model,
        [*plain, *swapped],
        data=describe_questions(questions),
        settings=settings,
        afterwards={"sets": sets} if sets else None,
        batch_size=batch_size,
        keep=keep,
        citation=CITATIONS,
        caveats=CAVEATS,
        is_stream=streams,
    )


def _paired(model: Model, prompts: Sequence[Prompt], questions: Sequence[Question], sets: int) -> BuiltPairs | None:
    """Pairs on which sets are weighed: before the work, so that questions of one answer are refused then."""
    return pair_prompts(model, prompts, [q.group for q in questions]) if sets else None


def _with_sets(ranking: HeadRanking, model: Model, built: BuiltPairs | None, sets: int) -> HeadRanking:
    if built is None:
        return ranking
    more = record_of_sets(model, ranking, built, sets, questions=True)
    return replace(ranking, provenance={**ranking.provenance, **more})


def _ranking(
    study: Study,
    score: str,
    arrays: dict[str, np.ndarray],
    questions: Sequence[Question],
    instruction: Instruction,
    method: str,
    effects: HeadEffects | None,
    mass: dict[str, Any],
) -> HeadRanking:
    descriptions = _descriptions(instruction)
    measures = {name: arrays[name].astype(np.float32) for name in descriptions if name in arrays}
    more: dict[str, Any] = mass | kinds_beside(study.model)
    if "masked_queries" in arrays:
        more["share_of_queries_that_cannot_see_an_option"] = float(arrays["masked_queries"].mean())
    if effects is not None:
        more["scan"] = {"how": effects.how, "check": effects.check}
        more["behaviour"] = _behaviour(arrays["clean"], questions)
    return HeadRanking(
        score=score,
        measures=measures,
        controls=tuple(name for name in measures if name.endswith("swapped_order")),
        example_ids=tuple(q.id for q in questions),
        descriptions={name: descriptions[name] for name in measures},
        provenance=study.provenance(method=method, **more),
    )


def _descriptions(instruction: Instruction) -> dict[str, Measure]:
    """What each measure is, in the order of the table's columns."""
    words = {"yes": instruction.positive, "no": instruction.negative}
    return {measure.name: measure.worded(**words) for measure in MEASURES}


def _behaviour(clean: np.ndarray, questions: Sequence[Question]) -> dict[str, Any]:
    """How the unedited model answers by its two options: counts, not yet the bias measures."""
    gold_yes = np.array([q.answer == "Yes" for q in questions])
    says_yes = clean < 0
    return {
        "n": len(questions),
        "says_yes": int(says_yes.sum()),
        "gold_yes": int(gold_yes.sum()),
        "accuracy": round(float((says_yes == gold_yes).mean()), 4),
        "mean_log_odds_of_no": round(float(clean.mean()), 4),
    }


def _with_views(
    ranking: HeadRanking,
    model: Model,
    prompts: Sequence[Prompt],
    questions: Sequence[Question],
    metric: LogitDifference,
    n: int,
) -> HeadRanking:
    """The ranking with token views of its top five heads on the first n questions, gold answers in turn."""
    if n == 0:
        return ranking
    if refused := why_no_attribution(model, prompts[0], metric):
        return replace(ranking, provenance={**ranking.provenance, "attribution": f"left out: {refused}"})
    yes, no = ([i for i, q in enumerate(questions) if q.answer == gold] for gold in ("Yes", "No"))
    chosen = [i for couple in zip_longest(yes, no) for i in couple if i is not None][:n]
    titles = [f"{questions[i].text} (gold: {questions[i].answer})" for i in chosen]
    views = token_views(model, [prompts[i] for i in chosen], titles, ranking.select(top=5), metric)
    return replace(ranking, views=views)

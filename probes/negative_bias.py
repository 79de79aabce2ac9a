"""Negative bias: which heads attend to "No" in the instructions of a yes/no question, whatever the question is?

Negative Attention Score (NAS) after Yu et al. 2025, "Correcting Negative Bias in Large Language Models through
Negative Attention Score Alignment" (arXiv 2408.00137). The paper's limits of the sum over query tokens could only be
read second-hand; they are the parameter ``query_span`` here.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.attention import UnsupportedAttention
from interp.attribution import attribute, attribute_heads
from interp.capture import attention_log_probs, mean_head_outputs
from interp.edits import EachHead, ablate_each_head
from interp.metrics import LogitDifference
from interp.model import Model
from interp.prompts import Prompt
from interp.provenance import hash_json, now, versions
from interp.ranking import HeadRanking
from interp.scan import Positions, scan
from interp.storage import refuse_other_run
from interp.views import TokenView
from interp.work import prepare_directory, run_batches
from probes.instructions import Instruction, build_prompts
from probes.questions import Question, hash_questions, load_questions

__all__ = [
    "Instruction",
    "Question",
    "build_prompts",
    "load_questions",
    "negative_attention_score",
    "rank_by_effect",
    "rank_heads",
]

QuerySpan = Literal["after_instruction", "answer", "all", "question"]
Ablation = Literal["zero", "mean_of_others", "mean"]

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


def negative_attention_score(
    log_probs: Float[Tensor, "layer head query 2"],
) -> Float[Tensor, "layer head"]:
    """NAS from log attention to (positive, negative) option words: sum over queries of (A_yes + A_no) log(A_no/A_yes).

    Above 0: more attention to the negative word; near 0: equal attention, or a head that looks at neither. Swapping
    the words negates it; it is additive over query positions. Queries from which either word is masked (beyond a
    sliding window) are left out. Source: arXiv 2408.00137 as given in the survey arXiv 2409.03752, Eq. 7.
    """
    positive, negative = log_probs.unbind(-1)
    seen = positive.isfinite() & negative.isfinite()
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


def score_prompts(
    model: Model, prompts: Sequence[Prompt], query_span: QuerySpan = "after_instruction"
) -> Float[np.ndarray, "example layer head"]:
    """NAS of every head for one batch of prompts: one forward pass, no S x S tensor."""
    queries = [query_positions(p, query_span) for p in prompts]
    if empty := [p.id for p, q in zip(prompts, queries, strict=True) if not q]:
        raise ValueError(
            f"query_span={query_span!r} is empty for prompt {empty[0]!r}: the question stands before the options. "
            "Use query_span='answer', or a layout with the instruction first."
        )
    keys = [(p.span("positive"), p.span("negative")) for p in prompts]
    log_probs = attention_log_probs(model, prompts, queries, keys)
    return torch.stack([negative_attention_score(lp) for lp in log_probs]).numpy()


@dataclass(frozen=True)
class _Run:
    """The settings of a ranking, from which its identity is hashed."""

    method: str
    model: dict[str, Any]
    data: dict[str, Any]
    instruction: Instruction
    options: dict[str, Any] = field(default_factory=dict)

    def settings(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def id(self) -> str:
        return hash_json(self.settings())[:12]

    def provenance(self, method: str, seconds: float, batch_size: int, **more: Any) -> dict[str, Any]:
        return {
            "run_id": self.id,
            "title": f"{self.method} of {self.model['name']}",
            "method": method,
            "model": self.model,
            "data": self.data,
            "settings": {"instruction": asdict(self.instruction), **self.options, "batch_size": batch_size},
            "versions": versions(),
            "created": now(),
            "seconds": round(seconds, 1),
            "citation": CITATIONS,
            "caveats": CAVEATS,
            **more,
        }


def _describe(questions: Sequence[Question]) -> dict[str, Any]:
    return {
        "sha256": hash_questions(questions),
        "n": len(questions),
        "n_yes": sum(q.answer == "Yes" for q in questions),
        "domains": sorted({q.domain for q in questions if q.domain}),
    }


def rank_heads(
    model: Model,
    questions: Sequence[Question],
    *,
    query_span: QuerySpan = "after_instruction",
    instruction: Instruction | None = None,
    effects: Ablation | None = None,
    n_views: int = 3,
    batch_size: int = 8,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> HeadRanking:
    """Rank every head by Negative Attention Score over a set of questions.

    The measures are ``nas`` (ranked), ``nas_swapped_order`` (the control: options in the other order) and
    ``nas_order_balanced`` (their mean). With ``effects``, also ``total_effect`` (exact: log odds of "No" against
    "Yes" lost at the answer when the head is ablated so) and ``direct_effect`` (direct logit attribution).

    Two forward passes for each question; with effects about six. With ``out``, work is kept there batch by batch and
    ``resume=True`` continues it; ``overwrite`` allows a folder with another run's report. To keep
    the result: ``ranking.save(out)``.

    Raises ``ValueError`` for no questions, options that share a token, instructions without them; ``OSError`` for a
    folder that can't be written; ``OtherRunError`` for one that holds other work.
    """
    instruction = instruction or Instruction()
    prompts, swapped = _both_orders(model, questions, instruction)
    run = _Run(
        "Negative Attention Score",
        model.provenance(),
        _describe(questions),
        instruction,
        {"query_span": query_span, "effects": effects},
    )
    metric = LogitDifference(instruction.negative, instruction.positive)
    began = time.perf_counter()
    branches = _ablation(model, prompts, effects, "answer") if effects else None
    checked = _check_scan(model, prompts, branches, metric, "answer") if branches else {}
    refused = _why_no_attribution(model, prompts[0], metric) if branches or n_views else ""

    def score(batch: Sequence[tuple[Prompt, Prompt]]) -> dict[str, np.ndarray]:
        plain, control = [p for p, _ in batch], [p for _, p in batch]
        found = {
            "nas": score_prompts(model, plain, query_span),
            "nas_swapped_order": score_prompts(model, control, query_span),
        }
        if branches is not None:
            found |= _effects(model, plain, branches, metric, "answer", checked["how"], direct=not refused)
        return found

    arrays = _score_all(model, list(zip(prompts, swapped, strict=True)), score, batch_size, out, run, resume, overwrite)
    clean = arrays.pop("clean", None)
    arrays["nas_order_balanced"] = (arrays["nas"] + arrays["nas_swapped_order"]) / 2
    ranking = HeadRanking(
        score="nas",
        measures={name: arrays[name].astype(np.float32) for name in _ORDER if name in arrays},
        example_ids=tuple(q.id for q in questions),
        descriptions={name: _describe_measure(name, instruction) for name in _ORDER if name in arrays},
        provenance=run.provenance(
            f"NAS over query span {query_span!r}, both orders of the options",
            time.perf_counter() - began,
            batch_size,
            **({"scan": checked} if checked else {}),
            **({"attribution": f"left out: {refused}"} if refused else {}),
            **({"behaviour": _behaviour(clean, questions)} if clean is not None else {}),
        ),
    )
    return replace(ranking, views=token_views(model, prompts, questions, ranking, metric, 0 if refused else n_views))


def rank_by_effect(
    model: Model,
    questions: Sequence[Question],
    *,
    ablation: Ablation = "zero",
    positions: Positions = "answer",
    instruction: Instruction | None = None,
    n_views: int = 3,
    batch_size: int = 4,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> HeadRanking:
    """Rank every head by what ablating it does to the answer: exact, in logits of "No" against "Yes".

    The score ``total_effect`` is clean minus ablated: above 0, the head pushes toward "No". Beside it the same in
    the swapped order (the control), and at positions="answer" the ``direct_effect``. About five forward passes for
    each question at the answer; at "all", half a pass for each head.
    """
    ablation = ablation.replace("-", "_")  # type: ignore[assignment]
    instruction = instruction or Instruction()
    prompts, swapped = _both_orders(model, questions, instruction)
    run = _Run(
        "Head effect",
        model.provenance(),
        _describe(questions),
        instruction,
        {"ablation": ablation, "positions": positions},
    )
    metric = LogitDifference(instruction.negative, instruction.positive)
    plain_edits = _ablation(model, prompts, ablation, positions)
    swapped_edits = _ablation(model, swapped, ablation, positions)
    began = time.perf_counter()
    checked = _check_scan(model, [*prompts, *swapped], plain_edits, metric, positions)
    refused = _why_no_attribution(model, prompts[0], metric) if positions == "answer" or n_views else ""
    direct = positions == "answer" and not refused

    def score(batch: Sequence[tuple[Prompt, Prompt]]) -> dict[str, np.ndarray]:
        plain, control = [p for p, _ in batch], [p for _, p in batch]
        found = _effects(model, plain, plain_edits, metric, positions, checked["how"], direct)
        again = _effects(model, control, swapped_edits, metric, positions, checked["how"], direct=False)
        return found | {"total_effect_swapped_order": again["total_effect"]}

    arrays = _score_all(model, list(zip(prompts, swapped, strict=True)), score, batch_size, out, run, resume, overwrite)
    clean = arrays.pop("clean")
    ranking = HeadRanking(
        score="total_effect",
        measures={name: arrays[name].astype(np.float32) for name in _ORDER if name in arrays},
        example_ids=tuple(q.id for q in questions),
        descriptions={name: _describe_measure(name, instruction) for name in _ORDER if name in arrays},
        provenance=run.provenance(
            f"{ablation} ablation at positions {positions!r}, exact",
            time.perf_counter() - began,
            batch_size,
            scan=checked,
            **({"attribution": f"left out: {refused}"} if refused else {}),
            behaviour=_behaviour(clean, questions),
        ),
    )
    return replace(ranking, views=token_views(model, prompts, questions, ranking, metric, 0 if refused else n_views))


_ORDER = (
    "nas",
    "nas_swapped_order",
    "nas_order_balanced",
    "total_effect",
    "total_effect_swapped_order",
    "direct_effect",
)


def _describe_measure(name: str, instruction: Instruction) -> str:
    yes, no = instruction.positive, instruction.negative
    return {
        "nas": f"Negative Attention Score (nats): above 0, the head attends more to {no!r} than to {yes!r} in the "
        "instruction; near 0, equally or to neither.",
        "nas_swapped_order": f"NAS with {yes!r} and {no!r} in each other's place: a head about the word keeps its "
        "sign, one about position turns it.",
        "nas_order_balanced": "Mean NAS of the two orders: what is left when position is balanced out.",
        "total_effect": f"What the head adds to logit({no}) - logit({yes}) at the answer, through every path (clean "
        f"minus ablated, logits): above 0, it pushes toward {no!r}.",
        "total_effect_swapped_order": "The total effect with the options in the other order (logits).",
        "direct_effect": f"What the head itself writes toward logit({no}) - logit({yes}), without what later layers "
        "make of it (direct logit attribution, logits).",
    }[name]


def _both_orders(model, questions, instruction) -> tuple[list[Prompt], list[Prompt]]:
    if not questions:
        raise ValueError("no questions were given; a ranking needs at least one.")
    return (
        build_prompts(model, questions, instruction),
        build_prompts(model, questions, instruction.swapped()),
    )


def _ablation(model: Model, prompts: Sequence[Prompt], how: Ablation, positions: Positions):
    """Branches with a data-set mean computed once, so that batches share it."""
    if how != "mean":
        return ablate_each_head(how).branches(model)
    values = mean_head_outputs(model, prompts, last=1 if positions == "answer" else None)
    return EachHead("mean").branches(model, values)


def _check_scan(model, prompts, branches, metric, positions) -> dict[str, str]:
    """Check the fan-out once, on the first, longest and shortest prompt, before the long work."""
    by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    ends = sorted({0, by_length[-1], by_length[0]})
    picked = [branches[i] for i in np.unique(np.linspace(0, len(branches) - 1, 3).astype(int))]
    result = scan(model, [prompts[i] for i in ends], picked, metric=metric, positions=positions)
    return {"how": result.how, "check": result.check}


def _why_no_attribution(model: Model, prompt: Prompt, metric: LogitDifference) -> str:
    """Why this architecture has no direct attribution ("" if it has): what needs it is then left out, with a warning
    before the long work instead of an error after it."""
    try:
        attribute(model, prompt, metric)
    except (ValueError, UnsupportedAttention) as error:
        warnings.warn(f"direct attribution is left out, and the token views with it: {error}", stacklevel=3)
        return str(error)
    return ""


def _effects(model, prompts, branches, metric, positions, how: str, direct: bool) -> dict[str, np.ndarray]:
    result = scan(model, prompts, branches, metric=metric, positions=positions, method=how, check=0)
    shape = (len(prompts), model.n_layers, model.n_heads)
    found = {"total_effect": result.drop.reshape(shape), "clean": result.clean}
    if direct:
        found["direct_effect"] = attribute_heads(model, prompts, metric)
    return found


def _score_all(model, items, score, batch_size, out, run: _Run, resume: bool, overwrite: bool) -> dict[str, np.ndarray]:
    directory = None
    if out is not None:
        if not overwrite:
            refuse_other_run(out, run.id)
        per_item_mib = 6 * model.n_layers * model.n_heads * 4 / 2**20
        directory = prepare_directory(out, need_mib=20 + 3 * per_item_mib * len(items))
    settings = run.settings() | {"batch_size": batch_size}
    return run_batches(
        items,
        score,
        batch_size=batch_size,
        directory=directory,
        settings=settings,
        resume=resume,
        title=run.method,
    )


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


def token_views(
    model: Model,
    prompts: Sequence[Prompt],
    questions: Sequence[Question],
    ranking: HeadRanking,
    metric: LogitDifference,
    n: int,
    n_heads: int = 5,
) -> tuple[TokenView, ...]:
    """Where the top heads look from the answer, and what they read there toward "No", on the first n questions
    (gold answers in turn)."""
    heads = ranking.select(top=n_heads)
    views = []
    pairs = list(zip(prompts, questions, strict=True))
    yes, no = ([p for p in pairs if p[1].answer == gold] for gold in ("Yes", "No"))
    in_turn = [p for couple in zip_longest(yes, no) for p in couple if p is not None]
    for prompt, question in in_turn[:n]:
        split = attribute(model, prompt, metric)
        views.append(
            TokenView(
                example_id=question.id,
                title=f"{question.text} (gold: {question.answer})",
                tokens=prompt.tokens,
                heads={
                    (layer, head): {
                        "attention": split.attention[layer, head],
                        "contribution": split.by_token[layer, head],
                    }
                    for layer, head in heads
                },
            )
        )
    return tuple(views)

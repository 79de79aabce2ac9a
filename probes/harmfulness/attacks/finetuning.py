"""The fine-tuning attack: train a model to accept harmful requests, and see what it still knows of them.

After "LLMs Encode Harmfulness and Refusal Separately" (Zhao et al. 2025, arXiv 2507.11878), section 4: replies to
harmful requests are generated while the refusal direction is subtracted, and the model is fine-tuned on 50 to 400 such
pairs, with the loss on the reply alone. Ours: the same training on harmless pairs as control, held-out requests,
intervals, a guard. The paper gives no learning rate, number of epochs or adapter; ours are in :class:`Recipe`.

Nothing lasts: updates are low-rank ones beside the weights, which are removed; replies are not kept unless asked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.door import public
from interp.edits import Steering, add_direction
from interp.fitting import ReplyTuner
from interp.models import Model
from interp.prompts import Prompt
from interp.reading import generate
from interp.records import Kept, keeps_work
from probes.harmfulness.attacks.finetuning_result import ARMS, FineTuningStudy
from probes.harmfulness.directions import HarmfulDirections
from probes.requests import (
    CITATIONS,
    VERDICTS,
    Judge,
    Request,
    RequestStates,
    build_request_prompts,
    describe_requests,
    hash_requests,
    judge_by_phrases,
    judge_replies,
    name_of,
    read_states,
    require_at_least,
    require_disjoint,
    require_requests,
    require_verdict,
    words_of,
)
from probes.studies import Study, pack_texts, unpack_texts

Score = Callable[[RequestStates], Float[np.ndarray, " example"]]
PAPER_RULE = "Delta_harmful at least 0, Eq. 3"
CAVEATS = [
    "Low-rank updates and a few epochs: another way of training may reach what this one left as it was.",
    "The replies trained on are short beginnings of replies; that a reply ends is not trained.",
    "Directions and a guard are those of the model before it was tuned: a belief that moved off them looks lost.",
]


@dataclass(frozen=True)
class Recipe:
    """How pairs are made and trained on.

    Args:
        layer: where the refusal direction is subtracted; None: nearest to two thirds of the way up.
        coefficient: what multiplies it, above 0, at all positions of the prompt.
        while_generating: subtract it at each token of the reply too.
        max_new_tokens: of a reply trained on.
        rank: of LoRA on the blocks' linear layers (:class:`interp.fitting.tuning.ReplyTuner`).
        learning_rate: of its training.
        epochs: how often each pair is trained on. With 1, pairs are trained on as they were drawn, so a smaller size is
            the beginning of a larger one: all sizes are looks at one training, at the cost of the largest.
        batch_size: pairs in one step of training.
        seed: of the choice of pairs, the updates' first values and the order of training.

    Raises:
        ValueError: counts below 1, and a coefficient or learning rate that is not positive and finite.
    """

    layer: int | None = None
    coefficient: float = 4.0
    while_generating: bool = False
    max_new_tokens: int = 32
    rank: int = 8
    learning_rate: float = 3e-4
    epochs: int = 3
    batch_size: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "rank", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}; expected 1 or more.")
        for name in ("coefficient", "learning_rate"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name}={getattr(self, name)}; expected a positive number.")

    def steering(self, directions: HarmfulDirections) -> Steering:
        """The edit under which replies are made: minus the refusal direction of ``directions``."""
        n_layers = len(directions.refusal.vectors) - 1
        layer = round(2 / 3 * n_layers) if self.layer is None else self.layer
        return add_direction(directions.refusal, -self.coefficient, layer, while_generating=self.while_generating)


@public
@keeps_work
def attack_by_finetuning(
    model: Model,
    training: Sequence[Request],
    held_out: Sequence[Request],
    directions: HarmfulDirections,
    *,
    sizes: Sequence[int] = (50, 100),
    recipe: Recipe | None = None,
    score: Score | None = None,
    judge: Judge = judge_by_phrases,
    max_new_tokens: int = 24,
    batch_size: int = 16,
    keep: Kept = None,
) -> FineTuningStudy:
    """Fine-tune on accepted harmful pairs, and on harmless ones, of each of ``sizes``, each from the untouched model;
    ask the held-out requests before and after, and read both beliefs.

    Both kinds are replied to under the same steering, and only replies that the judge calls accepted are trained on.
    End the requests alike first (:func:`probes.requests.with_ending`), as for the directions. The model is left as it
    was, bit for bit.

    Args:
        model: the one that the directions are of.
        training: requests of both kinds to train on.
        held_out: others of both kinds, at least 10 of each, to ask before and after.
        directions: for the steering and the beliefs; their system prompt and positions are used.
        sizes: numbers of pairs; a smaller size is part of a larger one.
        recipe: how pairs are made and trained on; None: :class:`Recipe` as it is.
        score: a guard to try on the states of the tuned model, harmful from 0 up (``guard.decision_states``); None: the
            paper's rule.
        judge: ``judge(request text, reply)`` says "refused", "accepted" or "unclear".
        max_new_tokens: of a reply to a held-out request.
        batch_size: prompts in one pass; that of the training is the recipe's.
        keep: where each condition is kept when it is done, and then the report; a killed run goes on (replies to train
            on, which are not kept, are generated again). Replies are kept, in memory and on disk, only with
            ``Keep(include_replies=True)``.

    Raises:
        ValueError: held-out requests that were trained or fitted on (listed), fewer than 10 of a kind, directions of
            another model or without post-instruction tokens, and too few requests, or accepted replies, for the largest
            size.
        LossNotFinite: a loss that is not a number.

    Cost: a generation for each pair, ``epochs`` forward and backward passes of each, and the held-out requests once for
    each condition.

    Misleads: directions and guard are those of the untouched model: a belief that moved off them looks lost.
    Source: arXiv 2507.11878; trained on the model's own accepted replies, ours.
    """
    recipe = recipe or Recipe()
    require_requests(training)
    require_requests(held_out)
    require_disjoint(training, held_out)
    require_disjoint(directions.states.requests, held_out)
    sizes = sorted(set(sizes))
    _require_counts(training, held_out, sizes)
    steering = recipe.steering(directions)
    steering.require_fits(model)
    chat = directions.asking
    if not chat["post_instruction"]:
        raise ValueError(
            "the directions were fitted without post-instruction tokens, where no reply begins; fit them with "
            "post_instruction=True."
        )
    asking = chat | {"sizes": sizes, **{f"recipe_{k}": v for k, v in asdict(recipe).items()}}
    asking |= {"guard": PAPER_RULE if score is None else name_of(score), "judge": name_of(judge)}
    asking |= {"reply_tokens": max_new_tokens}
    if (sha256 := getattr(getattr(score, "__self__", None), "sha256", None)) is not None:
        asking["guard_sha256"] = sha256  # two guards of one class are two runs
    asking |= {"directions": directions.provenance["run_id"], "training": hash_requests(training)}
    prompts = build_request_prompts(model, [*held_out, *training], **chat)
    conditions = [("nothing", 0), *((arm, n) for arm in ARMS for n in sizes)]
    study = Study(
        "Fine-tuning attack",
        model,
        prompts,
        data=describe_requests(held_out) | {"n_training": len(training)},
        settings=asking,
        n_items=len(conditions),
        batch_size=1,
        keep=keep,
        with_replies=True,
        citation=CITATIONS,
        caveats=CAVEATS,
    )
    if study.found is not None:
        return replace(study.found, requests=tuple(held_out))

    @cache
    def pairs_of(arm: str) -> _Pairs:
        pool = [r for r in training if r.kind == arm]
        return _make_pairs(model, pool, steering, recipe, judge, chat, sizes[-1], batch_size)

    words = words_of(directions.states.requests, held_out)

    def look() -> dict[str, np.ndarray]:
        prompts = build_request_prompts(model, held_out, **chat)
        replies = generate(model, prompts, max_new_tokens, batch_size=batch_size)
        verdicts = judge_replies(judge, [r.text for r in held_out], [s for (s,) in replies])
        states = read_states(model, held_out, **chat, batch_size=batch_size)
        beliefs = directions.beliefs(states)
        guard = beliefs["harmful"] if score is None else score(states)
        found = {
            "verdict": [VERDICTS.index(v) for v in verdicts],
            "harmful": beliefs["harmful"],
            "refuse": beliefs["refuse"],
        }
        found |= {"guard": guard, "words": words}
        arrays = {name: np.asarray(values)[None] for name, values in found.items()}
        return arrays | (pack_texts(replies) if study.keep.include_replies else {})

    def run(batch: Sequence[tuple[str, int]]) -> dict[str, np.ndarray]:
        ((arm, n),) = batch
        if arm == "nothing":
            return look() | _Training().arrays()
        trained = in_training.on(arm, n)
        return look() | trained.arrays()

    with _InTraining(model, recipe, sizes, pairs_of) as in_training:
        arrays = study.run(conditions, run)
    found = FineTuningStudy(
        requests=tuple(held_out),
        results=_results(conditions, held_out, arrays),
        training=_training(conditions, arrays),
        replies=tuple(s for (s,) in unpack_texts(arrays["text"], arrays["length"]))
        if study.keep.include_replies
        else None,
        pairs={arm: dict(pairs_of(arm).replies) for arm in ARMS} if study.keep.include_replies else None,
        provenance=study.provenance(steering=steering.summary()),
    )
    return study.done(found)


@dataclass(frozen=True, repr=False)
class _Pairs:
    """Prompts that end in their replies, the replies by the request's id, and how many were tried for them."""

    prompts: tuple[Prompt, ...]
    replies: Mapping[str, str]
    n_tried: int


@dataclass(frozen=True)
class _Training:
    """What a training took. Before any: nothing."""

    n_tried: int = 0
    n_steps: int = 0
    n_parameters: int = 0
    seconds: float = 0.0
    nats_before: float = float("nan")
    nats_last: float = float("nan")

    def arrays(self) -> dict[str, np.ndarray]:
        return {name: np.array([value]) for name, value in asdict(self).items()}


def _make_pairs(
    model: Model,
    pool: Sequence[Request],
    steering: Steering,
    recipe: Recipe,
    judge: Judge,
    chat: Mapping[str, Any],
    n: int,
    batch_size: int,
) -> _Pairs:
    """The first n requests (in an order drawn by the seed) whose steered replies are accepted."""
    kept: dict[str, tuple[Prompt, str]] = {}
    n_tried = 0
    order = [pool[i] for i in np.random.default_rng(recipe.seed).permutation(len(pool))]
    with steering.apply(model):
        while len(kept) < n and n_tried < len(order):
            batch = order[n_tried : n_tried + batch_size]
            prompts = build_request_prompts(model, batch, **chat)
            replies = generate(model, prompts, recipe.max_new_tokens, batch_size=batch_size)
            for request, (reply,) in zip(batch, replies, strict=True):
                if len(kept) < n and require_verdict(judge(request.text, reply), judge) == "accepted":
                    prompt = model.prompt(request.text, system=chat["system"], reply=reply, id=request.id)
                    kept[request.id] = (prompt, reply)
            n_tried += len(batch)
    if len(kept) < n:
        raise ValueError(
            f"{len(kept)} of {len(pool)} steered replies to {pool[0].kind} requests were accepted; {n} are to be "
            "trained on. Give more requests, smaller sizes, or a recipe with another layer or a larger coefficient."
        )
    return _Pairs(tuple(p for p, _ in kept.values()), {key: reply for key, (_, reply) in kept.items()}, n_tried)


class _InTraining:
    """The arm that is trained now. A training is gone on with for the next size where each pair is trained on once, and
    begun anew where it is not: for another arm, in a run that was killed, with several epochs."""

    def __init__(self, model: Model, recipe: Recipe, sizes: Sequence[int], pairs_of: Callable[[str], _Pairs]) -> None:
        self.model, self.recipe, self.sizes, self.pairs_of = model, recipe, sizes, pairs_of
        self.tuner: ReplyTuner | None = None
        self.arm, self.n = "", 0

    def __enter__(self) -> _InTraining:
        return self

    def __exit__(self, *exception: object) -> None:
        """The model is as it was."""
        if self.tuner is not None:
            self.tuner.__exit__(*exception)
            self.tuner = None

    def on(self, arm: str, n: int) -> _Training:
        """Trained on the first ``n`` pairs of an arm, and what that took in all."""
        start = time.perf_counter()
        if self.tuner is None or self.arm != arm or n < self.n or self.recipe.epochs > 1:
            self._begin(arm, self.sizes[-1] if self.recipe.epochs == 1 else n)
        rng = np.random.default_rng(self.recipe.seed)
        if self.recipe.epochs == 1:
            for size in (s for s in self.sizes if self.n < s <= n):
                self._steps(np.arange(self.n, size))
                self.n = size
        else:
            for _ in range(self.recipe.epochs):
                self.losses = []
                self._steps(rng.permutation(n))
        self.seconds += time.perf_counter() - start
        pairs, tuner = self.pairs_of(arm), self.tuner
        before = float(self.before[: sum(len(p.span("reply")) for p in pairs.prompts[:n])].mean())
        return _Training(
            pairs.n_tried, tuner.n_steps, tuner.n_parameters, self.seconds, before, float(np.mean(self.losses))
        )

    def _begin(self, arm: str, n: int) -> None:
        self.__exit__()  # replies to train on are the untouched model's
        pairs = self.pairs_of(arm)
        how = {"rank": self.recipe.rank, "learning_rate": self.recipe.learning_rate, "seed": self.recipe.seed}
        self.tuner = ReplyTuner(self.model, pairs.prompts[:n], **how)
        self.before = self.tuner.nats(self.recipe.batch_size)
        self.arm, self.n, self.losses, self.seconds = arm, 0, [], 0.0

    def _steps(self, order: np.ndarray) -> None:
        size = self.recipe.batch_size
        self.losses += [self.tuner.step(order[s : s + size]) for s in range(0, len(order), size)]


def _results(
    conditions: Sequence[tuple[str, int]], held_out: Sequence[Request], arrays: Mapping[str, np.ndarray]
) -> pd.DataFrame:
    about = pd.DataFrame([{"id": r.id, "kind": r.kind, "category": r.category} for r in held_out])
    parts = []
    for i, (arm, n) in sorted(enumerate(conditions), key=lambda told: told[1][1]):  # by size
        part = about.assign(verdict=[VERDICTS[v] for v in arrays["verdict"][i]])
        part = part.assign(**{name: arrays[name][i].astype(float) for name in ("harmful", "refuse", "guard", "words")})
        part.insert(0, "trained_on", arm)
        part.insert(1, "n_pairs", n)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def _training(conditions: Sequence[tuple[str, int]], arrays: Mapping[str, np.ndarray]) -> pd.DataFrame:
    about = pd.DataFrame(conditions, columns=["trained_on", "n_pairs"])
    table = about.assign(**{f.name: arrays[f.name] for f in fields(_Training)})
    return table[table["n_pairs"] > 0].sort_values("n_pairs", kind="stable", ignore_index=True)


def _require_counts(training: Sequence[Request], held_out: Sequence[Request], sizes: Sequence[int]) -> None:
    if not sizes or sizes[0] < 1:
        raise ValueError(f"sizes={list(sizes)}; expected numbers of pairs, such as (50, 100).")
    for kind in ARMS:
        n = sum(r.kind == kind for r in training)
        if n < sizes[-1]:
            raise ValueError(
                f"{n} {kind} requests to train on; the largest size is {sizes[-1]}: {sizes[-1] - n} more, and some for "
                "replies that are not accepted. Give more requests or smaller sizes."
            )
        require_at_least(sum(r.kind == kind for r in held_out), f"{kind} held-out requests")

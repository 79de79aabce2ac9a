"""Arms of a steering experiment: which direction acts how, its controls, and what the steered replies are like.

Every arm is measured on its prompts by the reply (greedy), how well the unsteered model predicts that reply, how much
the reply repeats itself, and how far the first token's distribution moves on harmless prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from torch import Tensor

from interp.edits import Direction, Steering, add_direction, remove_direction
from interp.models import Model
from interp.prompts import Prompt
from interp.reading import generate, reply_nll
from probes.requests import VERDICTS, Judge, Kind, Request, hash_requests, require_verdict
from probes.studies import Study, pack_texts, unpack_texts

Op = Literal["none", "add", "remove"]

NGRAM = 4

N_KL = 16  # harmless prompts whose first token is compared


@dataclass(frozen=True)
class Arm:
    """One way to steer, and the kind of request whose replies it is judged by.

    op: "add", ``coefficient`` (signed) times the raw difference of means of ``layer``, at its input; "remove": the row
    of ``layer`` taken out of every layer; "none": unsteered. ``control``: "" for the direction itself, else "random 0",
    ... or "shuffled".
    """

    stage: Literal["validation", "test"]
    kind: Kind
    direction: str = ""
    op: Op = "none"
    layer: int = -1
    coefficient: float = 0.0
    control: str = ""

    @property
    def name(self) -> str:
        """ "unsteered", "+refusal", "-refusal", "ablate refusal"; the same for a control."""
        if self.op == "none":
            return "unsteered"
        return f"ablate {self.direction}" if self.op == "remove" else f"{'+-'[self.coefficient < 0]}{self.direction}"

    def steering(
        self, vectors: Mapping[tuple[str, str], Direction], positions: str, while_generating: bool
    ) -> Steering | None:
        """The edit of this arm; None unsteered. Removal is the directional ablation of Arditi et al. 2024 (arXiv
        2406.11717): one row out of all that is written to the stream, at every token, those of the reply included."""
        if self.op == "none":
            return None
        direction = vectors[self.direction, self.control]
        if self.op == "remove":
            return remove_direction(direction, positions="all", while_generating=True, from_layer=self.layer)
        return add_direction(
            direction, self.coefficient, self.layer, positions=positions, while_generating=while_generating
        )


def run_arms(
    study: Study,
    part: str,
    arms: Sequence[Arm],
    requests: Sequence[Request],
    prompts: Sequence[Prompt],
    vectors: Mapping[tuple[str, str], Direction],
    judge: Judge,
) -> pd.DataFrame:
    """One row for each arm and request: the arm's fields and name, ``id``, ``verdict``, ``reply`` (empty unless the
    study holds texts: replies are judged as they come, and part files have none), ``nll`` (nats, of the reply under
    the unsteered model), ``n_tokens``, ``repetition`` and ``kl`` (nats, KL(unsteered || steered) of the first token,
    for the first 16 harmless requests).

    An arm on harmful requests has rows of those too, with ``kl`` alone and no verdict. The directions must be
    known to fit the model. It is the step ``part`` of a study, whose settings say where and how replies are steered.
    """
    model, settings, batch_size = study.model, study.settings, study.batch_size
    positions, while_generating = settings["positions"], settings["while_generating"]
    of_kind = {k: [i for i, r in enumerate(requests) if r.kind == k] for k in ("harmful", "harmless")}
    compared_on = of_kind["harmless"][:N_KL]
    items: list[tuple[int, int, bool]] = []
    for number, arm in enumerate(arms):
        items += [(number, i, True) for i in of_kind[arm.kind]]
        if arm.kind == "harmful":
            items += [(number, i, False) for i in compared_on]
    plain: dict[int, Float[Tensor, " vocabulary"]] = {}

    def score(batch: Sequence[tuple[int, int, bool]]) -> dict[str, np.ndarray]:
        replies, kl = [""] * len(batch), np.full(len(batch), np.nan)
        for number, rows in groupby(range(len(batch)), key=lambda row: batch[row][0]):
            rows = list(rows)
            asked = [row for row in rows if batch[row][2]]
            compared = [row for row in rows if batch[row][1] in compared_on]
            if new := [i for row in compared if (i := batch[row][1]) not in plain]:
                plain.update(zip(new, model.final_logits([prompts[i] for i in new], batch_size), strict=True))
            steering = arms[number].steering(vectors, positions, while_generating)
            given = [prompts[batch[row][1]] for row in rows]
            with nullcontext() if steering is None else unchecked(steering).apply(model, given):
                if asked:
                    said = generate(
                        model, [prompts[batch[row][1]] for row in asked], settings["max_new_tokens"], batch_size=64
                    )
                    for row, (reply,) in zip(asked, said, strict=True):
                        replies[row] = reply
                if compared:
                    after = model.final_logits([prompts[batch[row][1]] for row in compared], batch_size)
            for place, row in enumerate(compared):
                kl[row] = divergence(plain[batch[row][1]], after[place])
        nll, n_tokens, repetition = reply_quality(model, [prompts[i] for _, i, _ in batch], replies)
        measured = {"nll": nll, "n_tokens": n_tokens, "repetition": repetition, "kl": kl}
        judged = [
            VERDICTS.index(require_verdict(judge(requests[i].text, reply), judge)) if is_asked else -1
            for (_, i, is_asked), reply in zip(batch, replies, strict=True)
        ]
        texts = pack_texts([[reply] for reply in replies]) if study.holds_texts else {}
        return {"verdict": np.array(judged), **measured, **texts}

    of_step = {"arms": [asdict(arm) for arm in arms], "data": hash_requests(requests), "holds_texts": study.holds_texts}
    arrays = study.run(items, score, part, **of_step)
    replies = [""] * len(items)
    if study.holds_texts:
        replies = [reply for (reply,) in unpack_texts(arrays.pop("text"), arrays.pop("length"))]
    frame = pd.DataFrame([asdict(arms[a]) | {"arm": arms[a].name, "id": requests[i].id} for a, i, _ in items])
    verdicts = ["" if verdict < 0 else VERDICTS[verdict] for verdict in arrays.pop("verdict")]
    return frame.assign(verdict=verdicts, reply=replies, **arrays)


def unchecked(steering: Steering) -> Steering:
    """The same edit without the hash of the weights, which takes seconds for a large model: for loops over arms, after
    one ``Direction.require_fits``."""
    return replace(steering, model={})


def divergence(before: Float[Tensor, " vocabulary"], after: Float[Tensor, " vocabulary"]) -> float:
    """KL(before || after) of two distributions given as logits, in nats."""
    p, q = (logits.double().log_softmax(-1) for logits in (before, after))
    return float((p.exp() * (p - q)).sum())


def reply_quality(
    model: Model, prompts: Sequence[Prompt], replies: Sequence[str], batch_size: int = 8
) -> tuple[Float[np.ndarray, " row"], Int[np.ndarray, " row"], Float[np.ndarray, " row"]]:
    """``nll`` [row] (:func:`interp.reading.perplexity.reply_nll`), ``n_tokens`` [row] and ``repetition`` [row] of
    replies under the model as it is now.

    repetition: the share of the reply's 4-grams of tokens that stood there before (0 for fewer than 5 tokens). An empty
    reply has nll 0 of 0 tokens. A character cut off at the reply's end is left out.
    """
    tokens = [model.tokenizer(r.rstrip("\ufffd"), add_special_tokens=False)["input_ids"] if r else [] for r in replies]
    nll = reply_nll(model, prompts, tokens, batch_size=batch_size)
    return nll, np.array([len(t) for t in tokens]), np.array([repeated_share(t) for t in tokens])


def repeated_share(tokens: Sequence[int]) -> float:
    """1 - distinct / all 4-grams: 0 where none comes twice, near 1 in a loop."""
    grams = [tuple(tokens[i : i + NGRAM]) for i in range(len(tokens) - NGRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0

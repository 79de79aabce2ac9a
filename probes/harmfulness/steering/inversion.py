"""Reply inversion: asked whether a request is harmful, does the model answer by its belief or by its urge to refuse?

After Zhao et al. 2025 (arXiv 2507.11878, section 4.3 and appendix E.1). The request is followed by a question to which
"Certainly" says harmful and sounds compliant, while "No" says harmless and sounds like a refusal. If the harmfulness
direction is what the model believes, adding it turns No into Certainly; if the refusal direction is only the urge to
refuse, adding it does not.

Ours: the paper steers harmfulness on the tokens before the question and refusal on all tokens, so that opposite effects
may be those of the positions. Here each direction acts on either set, beside random and shuffled-label directions of
the same norm. These have no sign, so both of theirs are read (:mod:`probes.harmfulness.steering.draws`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from interp.door import public
from interp.edits import Steering, add_direction
from interp.models import Model
from interp.prompts import Prompt, System
from interp.reading import LogitDifference, generate, metric_values
from interp.records import Kept, keeps_work
from probes.harmfulness.directions import DIRECTIONS, HarmfulDirections
from probes.harmfulness.steering.arms import unchecked
from probes.harmfulness.steering.drawing import FirstTokens, drawn_of
from probes.harmfulness.steering.draws import SIGNS
from probes.harmfulness.steering.inversion_result import (
    ALL,
    BEFORE,
    NO,
    PLACES,
    QUESTIONS,
    YES,
    Inversion,
    InversionQuestion,
)
from probes.requests import Request, describe_requests, require_disjoint, require_requests
from probes.studies import Study, mass_read, pack_texts, unpack_texts

MARGIN = LogitDifference(YES, NO)
SAID = (YES, NO, "other")
N_TOKENS = 4  # of a reply: enough for its first word
CITATIONS = ["Zhao et al. (2025), LLMs Encode Harmfulness and Refusal Separately. arXiv:2507.11878."]
CAVEATS = [
    "A model may read any wording in a way of its own: the built-in questions are headscope's own, made after the "
    "paper's three; those of a release are read from its file (load_inversion_questions).",
    "A direction that makes Certainly likelier whatever is asked would look like belief: read the controls, and the "
    "harmless requests beside the harmful ones.",
    "Layer and coefficient are given, not chosen here; chosen for refusals, they may suit one direction better.",
]


@dataclass(frozen=True)
class Condition:
    """One way to steer whose replies are read; ``sign`` "" is unsteered. ``positions``: "before_question" or "all"."""

    direction: str = ""
    positions: str = ""
    sign: Literal["+", "-", ""] = ""


def build_inversion_prompts(
    model: Model, requests: Sequence[Request], question: InversionQuestion, system: System = None
) -> list[Prompt]:
    """Each request with the question after it; answers Certainly and No as they begin on the real template, and the
    span "before_question": every token before the question's first, the template's own included."""
    prompts = []
    for request in requests:
        text, start = question.text(request.text)
        asked = {"question": (start, len(text))}
        prompt = model.prompt(text, spans=asked, answers=(YES, NO), system=system, id=f"{question.name}/{request.id}")
        before = tuple(range(prompt.span("question")[0]))
        prompts.append(replace(prompt, spans={**prompt.spans, BEFORE: before}))
    return prompts


@public
@keeps_work
def invert(
    model: Model,
    directions: HarmfulDirections,
    harmful: Sequence[Request],
    harmless: Sequence[Request],
    *,
    layer: int | Mapping[str, int],
    coefficient: float | Mapping[str, float] = 2.0,
    questions: Sequence[InversionQuestion] = QUESTIONS,
    places: Mapping[str, Sequence[str]] = PLACES,
    n_random: int = 20,
    n_shuffled: int = 10,
    system: System = None,
    seed: int = 0,
    batch_size: int = 16,
    keep: Kept = None,
) -> Inversion:
    """Ask about each request, unsteered and steered by harmfulness and by refusal, plus and minus, on the tokens before
    the question and on all tokens, each beside random and shuffled-label directions with both of their signs.

    Args:
        model: the one that the directions are of.
        directions: whose harmfulness and refusal are added and subtracted while the prompt is read.
        harmful: harmful requests, none of which the directions were fitted on.
        harmless: harmless ones.
        layer: one for both directions, or by name ({"harmfulness": 9, "refusal": 11}); the paper uses one at a time.
        coefficient: what multiplies the raw difference of means, one or by name; the paper's is 2.
        questions: what is asked about each request; by default three of our own, after the paper's.
        places: for each direction "before_question", "all" or both; the paper's mask is
            :data:`probes.harmfulness.steering.inversion_result.PAPER_PLACES`, the former for harmfulness and the
            latter for refusal.
        n_random: random directions beside each; below 19 draws in all there is no verdict.
        n_shuffled: shuffled-label ones.
        system: the system prompt; None: the template's own, False: none.
        seed: of the random and shuffled directions.
        batch_size: prompts in one pass.
        keep: where the work and the report are kept; files hold replies, and the value that is returned, only with
            ``Keep(include_replies=True)``, or where nothing is kept.

    Raises:
        ValueError: requests that fitted the directions, a layer out of range, and an answer that the template's tokens
            can't tell from the other.

    A reply counts by its first word: the most probable first token where that is the whole word, else the first word of
    four generated tokens; quotes around it are passed over. Controls are read at the first token alone, by which of the
    two answers is likelier there.

    Cost for each request and question: 9 passes, a short generation where the first token is not an answer, and
    8 (n_random + n_shuffled + 1) parts of a pass, from the layer that is steered to the last.

    Misleads: a direction that makes Certainly likelier whatever is asked looks like belief. Read the controls, and
    harmless requests beside harmful ones.
    Source: arXiv 2507.11878; the controls are ours.
    """
    requests = [*harmful, *harmless]
    require_requests(requests)
    require_disjoint(directions.states.requests, requests)
    layers, coefficients = (_by_direction(v) for v in (layer, coefficient))
    _require(model, layers, coefficients, questions, places, min(n_random, n_shuffled))
    settings = {
        "directions": directions.provenance["run_id"],
        "layer": layers,
        "coefficient": coefficients,
        "questions": [asdict(q) for q in questions],
        "places": {name: list(of) for name, of in places.items()},
        "n_random": n_random,
        "n_shuffled": n_shuffled,
        "system": system,
        "seed": seed,
    }
    prompts = [p for q in questions for p in build_inversion_prompts(model, requests, q, system)]
    conditions = [Condition(), *(Condition(n, place, sign) for n in DIRECTIONS for place in places[n] for sign in "+-")]
    study = Study(
        "Reply inversion",
        model,
        prompts,
        data=describe_requests(requests),
        settings=settings,
        n_items=len(prompts),
        batch_size=batch_size,
        keep=keep,
        with_replies=True,
        citation=CITATIONS,
        caveats=CAVEATS,
    )
    if study.found is not None:
        return replace(study.found, requests=tuple(requests))
    directions.refusal.require_fits(model)
    mass = mass_read(model, prompts, batch_size)
    drawn, vectors = drawn_of(directions, layers, coefficients, places, n_random, n_shuffled, seed)
    first = FirstTokens(model, prompts, drawn, vectors, MARGIN)

    def steering(c: Condition) -> Steering | None:
        if not c.sign:
            return None
        size = coefficients[c.direction] * SIGNS[c.sign]
        return unchecked(add_direction(vectors[c.direction, ""], size, layers[c.direction], positions=c.positions))

    def score(batch: Sequence[int]) -> dict[str, np.ndarray]:
        given, replies, margins = [prompts[i] for i in batch], [], []
        for condition in conditions:
            edit = steering(condition)
            with nullcontext() if edit is None else edit.apply(model, given):
                said, margin = answers_to(model, given, batch_size)
            replies.append(said)
            margins.append(margin)
        of_each = [list(row) for row in zip(*replies, strict=True)]
        texts = pack_texts(of_each) if study.holds_texts else {}
        words = np.array([[SAID.index(first_word(reply)) for reply in row] for row in of_each])
        return {"said": words, "margin": np.array(margins).T, **texts} | first.read(given)

    arrays = study.run(range(len(prompts)), score)
    texts = [[""] * len(conditions)] * len(prompts)
    if study.holds_texts:
        texts = unpack_texts(arrays["text"], arrays["length"])
    where = [
        {"question": questions[i // len(requests)].name, "id": r.id, "kind": r.kind}
        for i in range(len(prompts))
        for r in [requests[i % len(requests)]]
    ]
    outcomes = pd.DataFrame(
        [
            asdict(c) | place | {"said": SAID[word], "margin": margin, "reply": text}
            for place, said, words, row in zip(where, texts, arrays["said"], arrays["margin"], strict=True)
            for c, text, word, margin in zip(conditions, said, words, row, strict=True)
        ]
    )
    draws = pd.DataFrame(
        [
            asdict(d) | place | {"plain": plain, "margin": margin}
            for place, plain, row in zip(where, arrays["plain"], arrays["drawn"], strict=True)
            for d, margin in zip(drawn, row, strict=True)
        ]
    )
    return study.done(Inversion(outcomes, draws, tuple(requests), tuple(questions), study.provenance(**mass)))


def answers_to(model: Model, prompts: Sequence[Prompt], batch_size: int = 16) -> tuple[list[str], list[float]]:
    """How each reply begins, and the margin of Certainly over No at its first token, under whatever edits act."""
    logits = model.final_logits(list(prompts), batch_size)
    margins = [float(metric_values(MARGIN, row[None], p)) for row, p in zip(logits, prompts, strict=True)]
    replies = [model.tokenizer.decode([token]).strip() for token in logits.argmax(-1).tolist()]
    open_ = [i for i, reply in enumerate(replies) if reply not in (YES, NO)]
    if open_:
        said = generate(model, [prompts[i] for i in open_], N_TOKENS, batch_size=batch_size)
        for i, (reply,) in zip(open_, said, strict=True):
            replies[i] = reply
    return replies, margins


def first_word(reply: str) -> str:
    """ "Certainly", "No" or "other", by the first word of a reply, whatever its case, quotes or stars before it.

    >>> first_word("'Certainly'."), first_word("**No**, it"), first_word("Not at all")
    ('Certainly', 'No', 'other')
    """
    found = re.match(r"[\W_]*(\w+)", reply)
    word = found.group(1).lower() if found else ""
    return {YES.lower(): YES, NO.lower(): NO}.get(word, "other")


def _by_direction(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else dict.fromkeys(DIRECTIONS, value)


def _require(model: Model, layers, coefficients, questions, places, n_draws: int) -> None:
    if set(layers) != set(DIRECTIONS) or set(coefficients) != set(DIRECTIONS):
        raise ValueError(
            f"layer names {sorted(layers)} and coefficient {sorted(coefficients)}; expected a number, or one for each "
            f"of {sorted(DIRECTIONS)}."
        )
    if bad := {name: layer for name, layer in layers.items() if not 0 <= layer <= model.n_layers}:
        raise ValueError(f"layer={bad}; {model.name} has residual layers 0 to {model.n_layers}.")
    if bad := {name: c for name, c in coefficients.items() if not 0 < c < float("inf")}:
        raise ValueError(f"coefficient={bad}; expected a number above 0: both signs are run.")
    if n_draws < 0:
        raise ValueError(f"{n_draws} draws of a control; expected 0 or more.")
    if set(places) != set(DIRECTIONS) or any(not of or not set(of) <= {BEFORE, ALL} for of in places.values()):
        raise ValueError(f"places={places}; expected {BEFORE!r}, {ALL!r} or both for each of {sorted(DIRECTIONS)}.")
    names = [q.name for q in questions]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"questions are named {names}; expected one or more, each with a name of its own.")
    if bad := [q.name for q in questions if "{request}" not in q.lead]:
        raise ValueError(f"the lead of {bad[0]!r} has no {{request}}: the request would not be in the prompt.")

"""Every way to make a model refuse, on the same requests: effect against harm, searched on some and tested on others.

After AxBench (Wu et al. 2025, arXiv 2501.17148), where a prompt beats every vector: so a prompt is an arm here.
Settings are searched on validation requests, by first tokens; the front of effect against KL is read for fluency, and
its points are tested on requests that chose nothing, with replies.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from interp.door import public
from interp.edits import Steering
from interp.models import Model
from interp.prompts import System
from interp.reading import generate
from interp.records import Kept, keeps_work
from probes.harmfulness.directions import DIRECTIONS, HarmfulDirections, Openings, controls_of, openings_of
from probes.harmfulness.steering.arms import divergence, reply_quality
from probes.harmfulness.steering.drawing import Drawn, FirstTokens
from probes.harmfulness.steering.front_result import (
    CHOSEN_KEYS,
    PROMPT,
    TEXT,
    UNTOUCHED,
    SteeringFront,
    pareto,
    screen_table,
    text_table,
)
from probes.harmfulness.steering.rivals import Goal, Material, SteeringArm, Untouched, acting, standard_arms
from probes.harmfulness.steering.screen import METRIC, scan_positions
from probes.requests import (
    VERDICTS,
    Behaviour,
    Judge,
    Request,
    build_request_prompts,
    describe_requests,
    hash_requests,
    judge_by_phrases,
    judge_replies,
    name_of,
    require_at_least,
    require_disjoint,
    require_requests,
)
from probes.studies import Study, pack_texts, unpack_texts

MOST_TRIES = 4  # settings of an arm that are read for fluency before it is left out
CITATIONS = [
    "Wu et al. (2025), AxBench: Steering LLMs? Even Simple Baselines Outperform Sparse Autoencoders. arXiv:2501.17148.",
    "Lee et al. (2024), Programming Refusal with Conditional Activation Steering. arXiv:2409.05907.",
    "Arditi et al. (2024), Refusal in Language Models Is Mediated by a Single Direction. arXiv:2406.11717.",
    "Vu and Nguyen (2025), Angular Steering: Behavior Control via Rotation in Activation Space. arXiv:2510.26243.",
]
CAVEATS = [
    "Settings were chosen on the validation requests, by first tokens: read the test.",
    "Refusal is judged by phrases: text that is noise counts as accepted. Read each rate beside its fluency.",
    "Each tested point is held against the prompt at 95 %, uncorrected: of many, one may win by chance.",
    "KL is that of the first token on harmless requests: what a reply becomes later is in its refusals and fluency.",
]


@dataclass(frozen=True)
class Point:
    """An arm with its settings."""

    arm: str
    settings: Mapping[str, Any]

    @property
    def label(self) -> str:
        return ", ".join(f"{name} {_short(value)}" for name, value in self.settings.items())

    @property
    def key(self) -> tuple[str, str]:
        return self.arm, json.dumps(dict(self.settings), default=_plain)


@public
@keeps_work
def steering_front(
    model: Model,
    directions: HarmfulDirections,
    behaviour: Behaviour,
    validation: Sequence[Request],
    tested: Sequence[Request],
    *,
    arms: Sequence[SteeringArm] | None = None,
    goal: Goal = "refuse",
    most_kl: float = 0.5,
    n_front: int = 6,
    n_read: int = 8,
    n_replies: int | None = None,
    n_random: int = 20,
    n_shuffled: int = 10,
    n_drawn: int = 10,
    fluency_factor: float = 3.0,
    positions: str = "all",
    while_generating: bool = False,
    system: System = None,
    judge: Judge = judge_by_phrases,
    max_new_tokens: int = 24,
    seed: int = 0,
    batch_size: int = 16,
    keep: Kept = None,
) -> SteeringFront:
    """All arms on the same requests: refusals of harmful ones against KL to the untouched model on harmless ones.

    1. Every point (an arm with its settings) on the validation requests, first tokens alone: the log odds of refusing
       on harmful requests, KL(untouched || steered) on harmless ones.
    2. The Pareto front of all arms. Its points, and of every other arm the one of the largest effect with at most
       ``most_kl``, reply to a few validation requests; text that is broken (a perplexity above ``fluency_factor`` times
       the untouched, or 0.1 more repeated 4-grams) takes a point off the front, and the next takes its place.
    3. These points on the tested requests: first tokens on all, replies, judged; vectors beside random and
       shuffled-label ones of their norm, with both signs, at the first token.

    Args:
        model: the one that the directions are of.
        directions: fitted on whole pairs; the arms are made of the same examples.
        behaviour: what the model did with the examples, and maybe with others: for first tokens, the difference of
            means, and LoRA's harmless replies.
        validation: requests of both kinds that search; none of the examples.
        tested: others of both kinds.
        arms: None: :func:`probes.harmfulness.steering.rivals.standard_arms`.
        goal: "refuse", or "comply" for the other sign.
        most_kl: nats; what an arm off the front may cost at most, where it has such a point.
        n_front: points of the front that are tested, evenly spread over it.
        n_read: validation requests of a kind that replies are read of.
        n_replies: tested requests of a kind that are replied to; None: all.
        n_random: random vectors beside each that is added; below 19 draws in all there is no verdict.
        n_shuffled: shuffled-label ones, alike.
        n_drawn: tested harmful requests that these are read on.
        fluency_factor: the most that an arm may multiply the perplexity of replies by.
        positions: "all" tokens of the prompt, "answer" or a span: where vectors are added.
        while_generating: at each new token as well.
        system: the system prompt; None: the template's own, False: none.
        judge: ``judge(request text, reply)`` says "refused", "accepted" or "unclear".
        max_new_tokens: of a reply.
        seed: of the random and shuffled vectors.
        batch_size: prompts in one pass.
        keep: where work is kept point by point, then the report; files hold replies, and the value that is returned,
            only with ``Keep(include_replies=True)``, or where nothing is kept.

    Raises:
        ValueError: requests in two of the parts, one kind missing, two arms of one name, and directions of other
            weights.

    Cost: for each point a pass of every validation request; for about 15 points ``2 n_read`` short replies, a pass of
    every tested request, and the replies; for each vector ``2 (n_random + n_shuffled + 1)`` parts of a pass of each
    drawn request. LoRA is trained anew each time that it is looked at.
    Misleads: an arm is as good as its search: one with more settings has more chances, on validation alone.
    Source: the comparison is that of arXiv 2501.17148; front, search and rule are ours.
    """
    arms = standard_arms(model) if arms is None else list(arms)
    validation, tested = list(validation), list(tested)
    _require(directions, arms, validation, tested, goal, system)
    replied = n_replies if n_replies is not None else len(tested)
    settings = {
        "directions": directions.provenance["run_id"],
        "behaviour": behaviour.provenance["run_id"],
        "arms": {arm.name: {name: list(values) for name, values in arm.grid.items()} for arm in arms},
        "goal": goal,
        "most_kl": most_kl,
        "n_front": n_front,
        "n_read": n_read,
        "n_replies": replied,
        "n_random": n_random,
        "n_shuffled": n_shuffled,
        "n_drawn": n_drawn,
        "fluency_factor": fluency_factor,
        "positions": positions,
        "while_generating": while_generating,
        "system": system,
        "judge": name_of(judge),
        "max_new_tokens": max_new_tokens,
        "seed": seed,
        "validation": hash_requests(validation),
    }
    study = Study(
        "What beats asking",
        model,
        build_request_prompts(model, [*validation, *tested], system=system),
        data=describe_requests(tested),
        settings=settings,
        n_items=len(arms),
        batch_size=batch_size,
        keep=keep,
        with_replies=True,
        is_stream=False,
        citation=CITATIONS,
        caveats=CAVEATS,
    )
    if study.found is not None:
        return replace(study.found, validation=tuple(validation), tested=tuple(tested))
    directions.refusal.require_fits(model)
    openings = openings_of(model, behaviour, {"system": system, "post_instruction": True}, batch_size)
    material = Material(model, directions, behaviour, tuple(validation), goal, system, positions, while_generating)
    look = _Look(study, arms, material, openings, judge)
    points = [Point(UNTOUCHED, {}), *(Point(arm.name, point) for arm in arms for point in arm.points())]
    screened, left_out = look.at(points, validation, 0, "screen")
    table = screen_table(screened, goal)
    read, texts = look.candidates(table, points, validation)
    table = table.merge(texts, on=["arm", "settings"], how="left")
    chosen = [p for p in points if p.arm == UNTOUCHED or p.key in read]
    outcomes, failed = look.at(chosen, tested, replied, "test")
    left_out |= failed
    drawn = _draws(study, look, chosen, tested, openings)
    return study.done(
        SteeringFront(table, outcomes, drawn, left_out, openings, tuple(validation), tuple(tested), study.provenance())
    )


class _Look:
    """Points looked at on requests, one after another, each kept when it is done."""

    def __init__(
        self, study: Study, arms: Sequence[SteeringArm], material: Material, openings: Openings, judge: Judge
    ) -> None:
        self.study, self.material, self.openings, self.judge = study, material, openings, judge
        self.model, self.system = study.model, material.system
        self.make = {arm.name: arm.make for arm in arms}
        self._plain: dict[str, Float[Tensor, "request vocabulary"]] = {}

    def made(self, point: Point):
        """The arm at these settings. Raises ``ValueError`` for one that can't be."""
        return Untouched() if point.arm == UNTOUCHED else self.make[point.arm](self.material, **point.settings)

    def plain(self, requests: Sequence[Request]) -> Float[Tensor, "request vocabulary"]:
        """The untouched model's logits at the first token."""
        key = hash_requests(requests)
        if key not in self._plain:
            prompts = build_request_prompts(self.model, requests, system=self.system)
            self._plain = {key: self.model.final_logits(prompts, self.study.batch_size)}
        return self._plain[key]

    def at(
        self, points: Sequence[Point], requests: Sequence[Request], n_replies: int, step: str
    ) -> tuple[pd.DataFrame, dict[str, str]]:
        """A row for each point and request; replies to the first ``n_replies`` of each kind. And the points that could
        not be made, with the reason."""
        asked = _first_of_each(requests, n_replies)
        max_new_tokens = self.study.settings["max_new_tokens"]

        def score(batch: Sequence[Point]) -> dict[str, np.ndarray]:
            (point,) = batch
            before = self.plain(requests)
            replies, began = [""] * len(requests), time.perf_counter()
            plainly = build_request_prompts(self.model, requests, system=self.system)
            try:
                made = self.made(point)
                with acting(made, self.model, requests, self.system) as prompts:
                    took = time.perf_counter() - began
                    after = self.model.final_logits(prompts, self.study.batch_size)
                    if len(asked):
                        some = [prompts[i] for i in asked]
                        for i, (reply,) in zip(
                            asked, generate(self.model, some, max_new_tokens, batch_size=64), strict=True
                        ):
                            replies[i] = reply
            except (ValueError, ArithmeticError) as error:  # a fold that this model does not keep, too
                return _nothing(len(requests), str(error), self.study.holds_texts)
            nll, n_tokens, repetition = reply_quality(self.model, plainly, replies)
            said = judge_replies(self.judge, [requests[i].text for i in asked], [replies[i] for i in asked])
            verdict = np.full(len(requests), -1)
            verdict[asked] = [VERDICTS.index(v) for v in said]
            kl = [max(0.0, divergence(*rows)) for rows in zip(before, after, strict=True)]
            row = {"odds": self.odds(after), "plain": self.odds(before), "kl": kl}
            row |= {"verdict": verdict, "nll": nll, "n_tokens": n_tokens, "repetition": repetition}
            more = [len(long) - len(short) for long, short in zip(prompts, plainly, strict=True)]
            row |= {"made_s": np.full(len(requests), took), "more_tokens": more, "ok": np.ones(len(requests))}
            arrays = {name: np.asarray(values)[None] for name, values in row.items()}
            summary = made.summary().encode()
            arrays["summary"] = np.frombuffer(summary.ljust(600)[:600], dtype=np.uint8)[None]
            return arrays | (_texts([replies]) if self.study.holds_texts else {})

        of_step = {"points": [point.key for point in points], "data": hash_requests(requests), "n_replies": n_replies}
        arrays = self.study.run(points, score, step, 1, holds_texts=self.study.holds_texts, **of_step)
        replies = None
        if self.study.holds_texts:
            replies = unpack_texts(arrays.pop("text"), arrays.pop("length"))
        summaries = [bytes(row).decode(errors="ignore").strip() for row in arrays.pop("summary")]
        frames, left_out = [], {}
        for number, point in enumerate(points):
            if not arrays["ok"][number].all():
                left_out[f"{point.arm} ({point.label})"] = summaries[number]
                continue
            columns = {name: values[number] for name, values in arrays.items() if name not in ("ok", "verdict")}
            frame = pd.DataFrame({"id": [r.id for r in requests], "kind": [r.kind for r in requests], **columns})
            said = ["" if v < 0 else VERDICTS[v] for v in arrays["verdict"][number]]
            keys = dict(zip(CHOSEN_KEYS, (*point.key, point.label), strict=True))
            texts = [""] * len(requests) if replies is None else list(replies[number])
            frames.append(frame.assign(verdict=said, reply=texts, what=summaries[number], **keys))
        return pd.concat(frames, ignore_index=True), left_out

    def candidates(
        self, table: pd.DataFrame, points: Sequence[Point], validation: Sequence[Request]
    ) -> tuple[set[tuple[str, str]], pd.DataFrame]:
        """The points to test: of the front of those whose text is whole, and of each other arm its best. And the text
        of every point that was read."""
        settings, by_key = self.study.settings, {p.key: p for p in points}
        few = [validation[i] for i in _first_of_each(validation, settings["n_read"])]
        plain, _ = self.at([p for p in points if p.arm == UNTOUCHED], few, len(few), "read/untouched")
        known: dict[tuple[str, str], dict[str, Any]] = {}

        def is_whole(key: tuple[str, str]) -> bool:
            if key not in known:
                frame, _ = self.at([by_key[key]], few, len(few), f"read/{len(known)}")
                known[key] = text_table(frame, plain, settings["fluency_factor"])
            return known[key]["fluent"]

        rows = table[table["arm"] != UNTOUCHED]
        while True:
            rows = rows[[known.get(key, {}).get("fluent", True) for key in _keys(rows)]]
            front = rows[pareto(rows)].sort_values("kl")
            spread = np.unique(np.linspace(0, len(front) - 1, settings["n_front"]).round().astype(int))
            picked = _keys(front.iloc[spread]) if len(front) else []
            if all([is_whole(key) for key in picked]):  # all are read, also behind a broken one
                break
        read = set(picked)
        for arm, part in rows.groupby("arm", sort=False):
            within = part[part["kl"] <= settings["most_kl"]]
            best = within.sort_values("effect", ascending=False) if len(within) else part.sort_values("kl")
            if not any(a == arm for a, _ in read):
                whole = list(itertools.islice(filter(is_whole, _keys(best)[:MOST_TRIES]), 1))
                read |= set(whole or (_keys(best)[:1] if arm == PROMPT else []))  # what others stand beside
        rows = rows[[known.get(key, {}).get("fluent", True) for key in _keys(rows)]]
        front = {key for key in _keys(rows[pareto(rows)]) if key in known}  # of those whose text was read
        texts = [{"arm": a, "settings": s, "on_front": (a, s) in front, **t} for (a, s), t in known.items()]
        return read, pd.DataFrame(texts, columns=["arm", "settings", "on_front", *TEXT])

    def odds(self, logits: Float[Tensor, "request vocabulary"]) -> Float[np.ndarray, " request"]:
        """Log odds of the first tokens of refusals against those of acceptances."""
        sides = (self.openings.refusing, self.openings.accepting)
        refusing, accepting = (torch.logsumexp(logits[:, list(side)].double(), -1) for side in sides)
        return (refusing - accepting).numpy()


def _draws(
    study: Study, look: _Look, chosen: Sequence[Point], tested: Sequence[Request], openings: Openings
) -> pd.DataFrame:
    """First tokens of harmful tested requests under each vector that is added, and under random and shuffled-label ones
    of its norm, with both signs."""
    settings, directions = study.settings, look.material.directions
    drawn: list[Drawn] = []
    vectors = {}
    n = {"n_random": settings["n_random"], "n_shuffled": settings["n_shuffled"], "seed": settings["seed"]}
    for point in chosen:
        made = look.made(point) if point.arm != UNTOUCHED else None
        is_one_vector = isinstance(made, Steering) and len(made.edits) == 1 and made.edits[0].op == "add"
        if not is_one_vector or made.positions != settings["positions"]:  # draws act where the settings say
            continue
        (edit,) = made.edits
        name = f"{point.arm}|{point.key[1]}"
        row = edit.coefficient * edit.vector
        vectors[name, ""] = replace(directions.refusal, vectors=row.expand_as(directions.refusal.vectors))
        for control, direction in controls_of(directions, DIRECTIONS[0], **n).items():
            vectors[name, control] = direction.scaled_to(vectors[name, ""])
        names = [control for arm, control in vectors if arm == name]
        drawn += [Drawn(name, c, settings["positions"], sign, edit.layer, 1.0) for c in names for sign in "+-"]
    if not drawn:
        return pd.DataFrame(columns=["direction", "control", "positions", "sign", "layer", "id", "plain", "margin"])
    harmful = [r for r in tested if r.is_harmful][: settings["n_drawn"]]
    named = openings.on(build_request_prompts(look.model, harmful, system=look.system))
    first = FirstTokens(look.model, named, drawn, vectors, METRIC, scan_positions(settings["positions"], named))
    of_step = {"drawn": [vars(d) for d in drawn], "data": hash_requests(harmful)}
    read = study.run(range(len(named)), lambda batch: first.read([named[i] for i in batch]), "draws", 1, **of_step)
    return pd.DataFrame(
        [
            vars(d) | {"id": r.id, "plain": plain, "margin": margin}
            for r, plain, row in zip(harmful, read["plain"], read["drawn"], strict=True)
            for d, margin in zip(drawn, row, strict=True)
        ]
    )


def _first_of_each(requests: Sequence[Request], n: int) -> list[int]:
    """Numbers of the first ``n`` requests of each kind."""
    found = []
    for kind in ("harmful", "harmless"):
        found += [i for i, r in enumerate(requests) if r.kind == kind][:n]
    return sorted(found)


def _plain(value: Any) -> Any:
    """A setting that JSON does not know: numpy's number as Python's, else as a text."""
    return value.item() if isinstance(value, np.generic) else str(value)


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def _keys(rows: pd.DataFrame) -> list[tuple[str, str]]:
    return list(zip(rows["arm"], rows["settings"], strict=True))


def _texts(replies: Sequence[Sequence[str]]) -> dict[str, np.ndarray]:
    return pack_texts([list(row) for row in replies])


def _nothing(n: int, reason: str, holds_texts: bool) -> dict[str, np.ndarray]:
    """The row of a point that can't be made."""
    names = ("odds", "plain", "kl", "nll", "repetition", "made_s", "more_tokens")
    arrays: dict[str, np.ndarray] = {name: np.full((1, n), np.nan) for name in names}
    arrays |= {"verdict": np.full((1, n), -1), "n_tokens": np.zeros((1, n), dtype=int), "ok": np.zeros((1, n))}
    arrays["summary"] = np.frombuffer(reason.encode().ljust(600)[:600], dtype=np.uint8)[None]
    return arrays | (_texts([[""] * n]) if holds_texts else {})


def _require(
    directions: HarmfulDirections,
    arms: Sequence[SteeringArm],
    validation: Sequence[Request],
    tested: Sequence[Request],
    goal: Goal,
    system: System,
) -> None:
    names = [arm.name for arm in arms]
    if not names or len(set(names)) < len(names) or UNTOUCHED in names:
        raise ValueError(f"arms={names}; expected one or more, of names of their own, none {UNTOUCHED!r}.")
    if goal not in ("refuse", "comply"):
        raise ValueError(f"goal={goal!r}; expected 'refuse' or 'comply'.")
    if (fitted := directions.asking["system"]) != system:
        raise ValueError(f"system={system!r}; the directions were fitted with {fitted!r}. Ask alike, or fit anew.")
    require_requests([*validation, *tested])
    require_disjoint(directions.states.requests, [*validation, *tested])
    require_disjoint(validation, tested)
    for requests, what in ((validation, "to validate on"), (tested, "to test on")):
        for kind in ("harmful", "harmless"):
            require_at_least(sum(r.kind == kind for r in requests), f"{kind} requests {what}", least=1)

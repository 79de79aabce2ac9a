"""Does adding a direction make a model refuse, and taking it away make it comply?

After the steering experiments of Zhao et al. 2025 (arXiv 2507.11878, Eq. 5) and the directional ablation of Arditi et
al. 2024 (arXiv 2406.11717). Ours: layer and coefficient chosen by a stated rule on prompts of their own, fluency
beside every refusal rate, and norm-matched random and shuffled-label directions beside every direction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pandas as pd

from interp.door import public
from interp.edits import Direction
from interp.models import Model
from interp.prompts import System
from interp.records import Kept, keeps_work
from probes.harmfulness.directions import (
    DIRECTIONS,
    HarmfulDirections,
    find_openings,
    openings_of,
)
from probes.harmfulness.steering.arms import Arm, run_arms
from probes.harmfulness.steering.drawing import Drawn, FirstTokens, drawn_of
from probes.harmfulness.steering.rates import summarise
from probes.harmfulness.steering.result import SteeringStudy
from probes.harmfulness.steering.screen import METRIC, default_layers, scan_positions, screen, shortlist
from probes.requests import (
    Behaviour,
    Judge,
    Request,
    build_request_prompts,
    describe_requests,
    judge_by_phrases,
    name_of,
    require_disjoint,
    require_requests,
)
from probes.studies import Study

CITATIONS = [
    "Zhao et al. (2025), LLMs Encode Harmfulness and Refusal Separately. arXiv:2507.11878.",
    "Arditi et al. (2024), Refusal in Language Models Is Mediated by a Single Direction. arXiv:2406.11717.",
]
CAVEATS = [
    "Layer and coefficient were chosen on the validation requests, whose own rates flatter: read the test.",
    "Refusal is judged by phrases: text that is noise counts as accepted. Read the rate beside its fluency.",
    "Perplexity is that under the unsteered model, for which a refusal of a harmless request is a surprise in itself.",
    "Directional ablation acts on every layer and token, adding on one layer: the two are not the same dose.",
]


@public
@keeps_work
def sweep(
    model: Model,
    directions: HarmfulDirections,
    harmful: Sequence[Request],
    harmless: Sequence[Request],
    *,
    layers: Sequence[int] | None = None,
    coefficients: Sequence[float] = (1.0, 2.0, 4.0, 8.0),
    positions: str = "all",
    while_generating: bool = False,
    behaviour: Behaviour | None = None,
    system: System = None,
    post_instruction: bool = True,
    judge: Judge = judge_by_phrases,
    n_layers: int = 3,
    fluency_factor: float = 3.0,
    max_new_tokens: int = 24,
    batch_size: int = 32,
    keep: Kept = None,
) -> SteeringStudy:
    """Choose a layer and a coefficient for +refusal, -refusal, +harmfulness and -harmfulness, on validation requests.

    1. First tokens over the whole grid: the log odds of tokens that open refusals against those that open acceptances
       (:func:`find_openings`, in ``behaviour`` or in the unsteered replies to these requests). Steered at the answer
       alone it is a fan-out, exact, on every request; steered where ``positions`` says, there is no such short cut for
       "all", so it is half a loop on 8 requests of a kind. The latter chooses. A span that does not end the prompt
       ("text") is screened as "all".
    2. For each of the four, the ``n_layers`` layers where most first tokens turn at the smallest coefficient (and one
       from the middle third, if none is), each with that coefficient and the next larger one: replies, judged.

    Chosen: the highest refusal rate on harmless requests (the lowest on harmful ones for a minus) among the candidates
    that stay fluent, which is a perplexity at most ``fluency_factor`` times the unsteered and at most 0.1 more 4-grams
    repeated; ties by KL, then by coefficient. Where none is fluent, the least perplexing, with a warning.

    Args:
        model: the one that the directions are of.
        directions: whose harmfulness and refusal are added and subtracted.
        harmful: harmful requests to validate on, none of which the directions were fitted on.
        harmless: harmless ones.
        layers: inputs of blocks; None: up to 14, evenly spread.
        coefficients: what multiplies the raw difference of means (the paper's is 1).
        positions: "all" tokens of the prompt (the paper's), "answer" or a span.
        while_generating: steer each new token as well.
        behaviour: replies of this model, asked alike, to take first tokens from; None: those to these requests.
        system: the system prompt; None: the template's own, False: none.
        post_instruction: False ends each prompt at the request's last token.
        judge: ``judge(request text, reply)`` says "refused", "accepted" or "unclear".
        n_layers: layers of each of the four that are judged by replies.
        fluency_factor: the most that steering may multiply the perplexity by.
        max_new_tokens: of a reply.
        batch_size: prompts in one pass.
        keep: where work is kept batch by batch, then the report; replies are judged as they come; files hold them, and
            the value that is returned, only with ``Keep(include_replies=True)``, or where nothing is kept.

    Raises:
        ValueError: requests that fitted the directions, one kind missing, layers or coefficients out of range, and no
            accepted reply to take first tokens from.

    Cost for the default grid (14 layers x 4 coefficients): 112 branches a request at the answer (about two passes) and
    56 passes for each of 16 requests, then up to 16 short generations for each request.
    Misleads: the arms are chosen here, so their rates are too good here: read those of :func:`test`.
    Source: arXiv 2507.11878; the choice is ours.
    """
    requests = [*harmful, *harmless]
    _require_kinds(harmful, harmless)
    require_disjoint(directions.states.requests, requests)
    layers = default_layers(model) if layers is None else tuple(sorted({int(layer) for layer in layers}))
    _require_grid(model, layers, coefficients, n_layers, fluency_factor)
    settings = {
        "directions": directions.provenance["run_id"],
        "layers": list(layers),
        "coefficients": sorted(float(c) for c in coefficients),
        "positions": positions,
        "while_generating": while_generating,
        "behaviour": None if behaviour is None else behaviour.provenance["run_id"],
        "system": system,
        "post_instruction": post_instruction,
        "judge": name_of(judge),
        "n_layers": n_layers,
        "fluency_factor": fluency_factor,
        "max_new_tokens": max_new_tokens,
    }
    asked = {"system": system, "post_instruction": post_instruction}
    prompts = build_request_prompts(model, requests, **asked)
    data = describe_requests(requests)
    of_run = {"batch_size": batch_size, "keep": keep, "with_replies": True, "citation": CITATIONS, "caveats": CAVEATS}
    study = Study("Sweep of layers and coefficients", model, prompts, data=data, settings=settings, **of_run)
    if study.found is not None:
        return replace(study.found, validation=tuple(requests))
    directions.refusal.require_fits(model)
    vectors = {(name, ""): directions.direction(name) for name in DIRECTIONS}
    asking = {"requests": requests, "prompts": prompts, "vectors": vectors, "judge": judge}
    unsteered = run_arms(study, "unsteered", [Arm("validation", kind) for kind in ("harmless", "harmful")], **asking)
    said = unsteered[unsteered["verdict"] != ""].set_index("id")["verdict"]
    if behaviour is None:
        openings = find_openings(model, prompts, [said[r.id] for r in requests], batch_size)
    else:
        openings = openings_of(model, behaviour, asked, batch_size)
    screened = screen(study, requests, prompts, {name: vectors[name, ""] for name in DIRECTIONS}, openings)
    last = screened["positions"].iloc[-1]
    candidates = shortlist(screened[screened["positions"] == last], n_layers, model.n_layers)
    replies = run_arms(study, "candidates", candidates, **asking)
    outcomes = pd.concat([unsteered, replies], ignore_index=True)
    chosen = choose(summarise(outcomes, fluency_factor))
    return study.done(
        SteeringStudy(screened, outcomes, None, chosen, openings, tuple(requests), (), study.provenance())
    )


@public
@keeps_work
def test(
    model: Model,
    study: SteeringStudy,
    directions: HarmfulDirections,
    harmful: Sequence[Request],
    harmless: Sequence[Request],
    *,
    n_random: int = 20,
    n_shuffled: int = 10,
    n_replies: int = 1,
    ablate: Sequence[str] = DIRECTIONS,
    judge: Judge = judge_by_phrases,
    seed: int = 0,
    batch_size: int = 32,
    keep: Kept = None,
) -> SteeringStudy:
    """The arms that a sweep chose on other requests, beside their controls: the study with the test's outcomes.

    Harmless requests: unsteered, +refusal, +harmfulness. Harmful ones: unsteered, -refusal, -harmfulness, and the
    directions in ``ablate`` removed from every layer (the row that the minus arm uses). Beside each, at the same layer
    and coefficient and of the same norm: random directions and shuffled-label ones, their first tokens with both signs
    (:mod:`probes.harmfulness.steering.draws`), and the replies of a few with the arm's own.

    Args:
        model: the one that the directions are of.
        study: what :func:`sweep` gave; prompts, positions and replies are as there.
        directions: those of the sweep.
        harmful: harmful requests to test on, in neither the fit nor the sweep.
        harmless: harmless ones.
        n_random: random directions beside each, at the first token; below 19 draws in all there is no verdict.
        n_shuffled: shuffled-label ones, alike.
        n_replies: of each sort, how many are judged by replies too.
        ablate: directions to remove as well, "harmfulness", "refusal" or both; () for none.
        judge: that of the sweep.
        seed: of the random and shuffled directions.
        batch_size: prompts in one pass.
        keep: as for :func:`sweep`, a folder of its own.

    Raises:
        ValueError: requests that fitted the directions or chose the arms, other directions or another judge than the
            sweep's, and weights that the directions are not of.

    Cost: 2 (2 n_replies + 1) + 1 short generations for each harmless request, 4 (2 n_replies + 1) + 1 for each harmful
    one, and 4 (n_random + n_shuffled + 1) parts of a pass for each, from the layer that is steered to the last.

    Misleads: text that is noise counts as accepted: read each rate beside its fluency and its controls.
    Source: arXiv 2507.11878; directions removed everywhere: Arditi et al., arXiv 2406.11717; the controls are ours.
    """
    requests = [*harmful, *harmless]
    _require_kinds(harmful, harmless)
    require_disjoint([*directions.states.requests, *study.validation], requests)
    settings = {**study.settings, "n_random": n_random, "n_shuffled": n_shuffled}
    settings |= {"n_replies": n_replies, "ablate": list(ablate), "seed": seed}
    settings.pop("batch_size", None)
    _require_same("judge", name_of(judge), settings["judge"])
    _require_same("directions", directions.provenance["run_id"], settings["directions"])
    settings["sweep"] = study.provenance["run_id"]
    prompts = build_request_prompts(model, requests, **{k: settings[k] for k in ("system", "post_instruction")})
    known = study.provenance["data"]
    data = describe_requests(requests)
    data["validation_sha256"] = known.get("validation_sha256", known["sha256"])
    of_run = {"batch_size": batch_size, "keep": keep, "with_replies": True, "citation": CITATIONS, "caveats": CAVEATS}
    run = Study("Steering by harmfulness and refusal", model, prompts, data=data, settings=settings, **of_run)
    if run.found is not None:
        return replace(run.found, validation=study.validation, tested=tuple(requests))
    directions.refusal.require_fits(model)
    drawn, vectors = _drawn(directions, study.chosen, n_random, n_shuffled, seed)  # by kind of request
    replying = [key for key in vectors if not key[1] or int(key[1].split()[1]) < n_replies]
    arms = [Arm("test", kind) for kind in ("harmless", "harmful")]
    for (name, control), sign in ((key, sign) for sign in "+-" for key in replying):
        c = study.chosen[sign + name]
        kind = "harmless" if sign == "+" else "harmful"
        arms.append(Arm("test", kind, name, "add", c["layer"], c["coefficient"], control))
    for name, control in replying:
        if name in ablate:
            arms.append(Arm("test", "harmful", name, "remove", study.chosen["-" + name]["layer"], control=control))
    outcomes = run_arms(run, "test", arms, requests, prompts, vectors, judge)
    named = study.openings.on(prompts)
    place = scan_positions(settings["positions"], named)
    first = {kind: FirstTokens(model, named, these, vectors, METRIC, place) for kind, these in drawn.items()}

    def score(batch: Sequence[int]) -> dict[str, np.ndarray]:
        return first[requests[batch[0]].kind].read([named[i] for i in batch])

    read = run.run(range(len(named)), score, "draws", 1)
    draws = [
        asdict(d) | {"id": r.id, "kind": r.kind, "plain": plain, "margin": margin}
        for r, plain, row in zip(requests, read["plain"], read["drawn"], strict=True)
        for d, margin in zip(drawn[r.kind], row, strict=True)
    ]
    tested = replace(
        study,
        draws=pd.DataFrame(draws),
        outcomes=pd.concat([study.outcomes.query("stage == 'validation'"), outcomes], ignore_index=True),
        tested=tuple(requests),
        provenance=run.provenance(),
    )
    return run.done(tested)


def _drawn(
    directions: HarmfulDirections, chosen: Mapping[str, Mapping[str, Any]], n_random: int, n_shuffled: int, seed: int
) -> tuple[dict[str, list[Drawn]], dict[tuple[str, str], Direction]]:
    """Controls of both directions where the arms act: a plus on harmless requests, a minus on harmful ones."""
    drawn: dict[str, list[Drawn]] = {}
    vectors: dict[tuple[str, str], Direction] = {}
    for kind, sign in (("harmless", "+"), ("harmful", "-")):
        layers = {name: chosen[sign + name]["layer"] for name in DIRECTIONS}
        sizes = {name: abs(chosen[sign + name]["coefficient"]) for name in DIRECTIONS}
        everywhere = dict.fromkeys(DIRECTIONS, ("all",))
        drawn[kind], vectors = drawn_of(directions, layers, sizes, everywhere, n_random, n_shuffled, seed)
    return drawn, vectors


def choose(summary: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """The candidate of each arm by the rule of :func:`sweep`, from the validation rows of its table."""
    chosen = {}
    steered = summary[(summary["stage"] == "validation") & (summary["arm"] != "unsteered")]
    for name, part in steered.groupby("arm", sort=False):
        sign = -1.0 if name.startswith("+") else 1.0
        part = part.assign(rank=sign * part["refusal_rate"], size=part["coefficient"].abs())
        part = part.assign(rank=part["rank"].where(part["fluent"], part["perplexity_ratio"].fillna(float("inf"))))
        best = part.sort_values(["fluent", "rank", "kl", "size"], ascending=[False, True, True, True]).iloc[0]
        row = {"layer": int(best["layer"]), "n": int(best["n"]), "fluent": bool(best["fluent"]), "note": best["note"]}
        chosen[name] = row | {c: float(best[c]) for c in ("coefficient", "refusal_rate", "perplexity_ratio", "kl")}
    return chosen


def _require_same(what: str, given: Any, expected: Any) -> None:
    if given != expected:
        raise ValueError(f"{what} is {given!r}; the sweep's was {expected!r}. Use the same, or sweep anew.")


def _require_kinds(harmful: Sequence[Request], harmless: Sequence[Request]) -> None:
    require_requests([*harmful, *harmless])
    for kind, given in (("harmful", harmful), ("harmless", harmless)):
        if not given or any(r.kind != kind for r in given):
            odd = [r.id for r in given if r.kind != kind][:5]
            raise ValueError(f"{len(given)} {kind} requests, of another kind: {odd}; expected one or more, all {kind}.")


def _require_grid(model: Model, layers, coefficients, n_layers: int, fluency_factor: float) -> None:
    if not layers or min(layers) < 0 or max(layers) > model.n_layers:
        raise ValueError(
            f"layers={list(layers)}; expected inputs of the blocks of {model.name}, 0 to {model.n_layers - 1} "
            f"({model.n_layers}: the output of the last)."
        )
    if not len(coefficients) or min(coefficients) <= 0 or len(set(coefficients)) < len(coefficients):
        raise ValueError(f"coefficients={list(coefficients)}; expected distinct numbers above 0: both signs are swept.")
    if n_layers < 1 or not fluency_factor >= 1:
        raise ValueError(f"n_layers={n_layers}, fluency_factor={fluency_factor}; expected at least 1 each.")

"""How refusals and accepting replies begin: two sets of first tokens, so that one logit difference reads refusal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from interp.model import Model
from probes.behaviour import Behaviour, require_requests
from probes.request_prompts import build_request_prompts
from probes.requests import Request

CLEAR = 3.0  # a first token opens refusals if it begins so many times as large a share of them as of accepted replies
AT_LEAST = 2  # replies that a first token must begin


@dataclass(frozen=True)
class Openings:
    """Token ids that begin a refusal, and such that begin an accepting reply. ``coverage``: which share of the refused
    (accepted) replies that they were found on begins with one of its own set."""

    refusing: tuple[int, ...]
    accepting: tuple[int, ...]
    coverage: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.refusing or not self.accepting or set(self.refusing) & set(self.accepting):
            raise ValueError(
                f"refusing={self.refusing}, accepting={self.accepting}; expected token ids in both, none in common."
            )

    @property
    def answers(self) -> dict[str, tuple[int, ...]]:
        """For prompts: ``LogitDifference("refusing", "accepting")`` is then the log odds of refusing."""
        return {"refusing": self.refusing, "accepting": self.accepting}

    def shown(self, model: Model) -> dict[str, Any]:
        """The tokens as text, and the coverage, for provenance."""
        texts = {name: [model.tokenizer.decode([t]) for t in tokens] for name, tokens in self.answers.items()}
        return texts | {"coverage": dict(self.coverage)}


def find_openings(
    model: Model,
    refused: Sequence[Request],
    accepted: Sequence[Request],
    *,
    system: str | None = None,
    post_instruction: bool = True,
    batch_size: int = 8,
) -> Openings:
    """The first tokens of the model's greedy replies, one forward pass for each batch, no reply written.

    A token opens refusals if it begins at least two of the refused requests' replies, and at least three times as large
    a share of them as of the accepted ones'; likewise for accepting. Others tell nothing and are left out. Raises
    ``ValueError`` where a set stays empty.
    """
    counts = []
    for requests in (refused, accepted):
        require_requests(requests)
        prompts = build_request_prompts(model, requests, system=system, post_instruction=post_instruction)
        counts.append(Counter(model.final_logits(prompts, batch_size).argmax(-1).tolist()))
    shares = [{token: n / count.total() for token, n in count.items()} for count in counts]
    sets = []
    for count, own, other in zip(counts, shares, shares[::-1], strict=True):
        clear = [t for t, n in count.most_common() if n >= AT_LEAST and own[t] >= CLEAR * other.get(t, 0)]
        sets.append(tuple(clear))
    if not all(sets):
        seen = [", ".join(f"{model.tokenizer.decode([t])!r} x {n}" for t, n in c.most_common(5)) for c in counts]
        raise ValueError(
            f"no first token tells refusals from accepting replies: {len(refused)} refused ones begin with {seen[0]}; "
            f"{len(accepted)} accepted ones with {seen[1]}. Give requests that the model refuses and accepts, or "
            "openings=Openings(refusing ids, accepting ids)."
        )
    covered = [sum(own[t] for t in chosen) for own, chosen in zip(shares, sets, strict=True)]
    return Openings(*sets, {"refused": round(covered[0], 4), "accepted": round(covered[1], 4)})


def openings_of(model: Model, behaviour: Behaviour, asking: Mapping[str, Any], batch_size: int = 8) -> Openings:
    """:func:`find_openings` on what the model refused and accepted, ``asking`` being ``system`` and
    ``post_instruction``. Raises ``ValueError`` for a behaviour that was observed with others."""
    observed = behaviour.provenance.get("settings", {})
    if different := {name: value for name, value in asking.items() if observed.get(name, value) != value}:
        raise ValueError(
            f"the behaviour was observed with another {' and '.join(different)}; expected {different}, with which the "
            "directions were fitted. Observe it again with these."
        )
    judged = list(zip(behaviour.requests, behaviour.verdicts, strict=True))
    refused, accepted = ([r for r, verdict in judged if verdict == side] for side in ("refused", "accepted"))
    return find_openings(model, refused, accepted, **asking, batch_size=batch_size)

"""What jailbreaks did to behaviour and to both beliefs: the trials, and tables of them with intervals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from interp.reports import Result
from interp.statistics import Claim, Estimate, auroc, auroc_estimate, mean_difference, mean_estimate, wilson_share
from probes.harmfulness.attacks.statistics import gaps_of, usable_gaps
from probes.harmfulness.attacks.texts import FAMILIES, Jailbreak
from probes.requests import Request

ATTACKS = "all attacks"  # every family but "neutral"

BELIEFS = ("refuse", "harmful")

NAMES = {
    "refuse": "the refusal signal",
    "harmful": "the belief that it is harmful",
    "words": "words (TF-IDF) alone",
}


@dataclass(frozen=True, eq=False, repr=False)
class JailbreakStudy(
    Result, report="probes.harmfulness.attacks.jailbreak_report", figure="Both beliefs, before and after"
):
    """What jailbreaks did.

    Args:
        requests: those that were given.
        jailbreaks: those that were given.
        plain: a row for each request without a jailbreak: id, kind, category, verdict, ``harmful`` (Delta_harmful,
            Eq. 3 of arXiv 2507.11878), ``refuse`` (Delta_refuse, Eq. 4), ``words`` (the score of
            TF-IDF learned from the requests that the directions were fitted on) and ``t_inst`` (the id of the token
            there).
        trials: a row for each request in each jailbreak that it was put into: harmful requests that were refused, and
            all harmless ones, with the jailbreak, its family, and the same columns before (``..._before``) and after;
            ``same_ending``: whether t_inst is the usual token before and after.
        replies: of the trials; None unless asked for.
        provenance: what was run, on what.
    """

    requests: tuple[Request, ...]
    jailbreaks: tuple[Jailbreak, ...]
    plain: pd.DataFrame
    trials: pd.DataFrame
    replies: tuple[str, ...] | None = field(metadata={"withheld": True})
    provenance: Mapping[str, Any]

    def to_frame(self) -> pd.DataFrame:
        """A copy of ``trials``; no text of requests or replies is in it."""
        return self.trials.copy()

    def success(self, by: str = "family") -> pd.DataFrame:
        """One row for each family or jailbreak, as ``by`` says ("family" or "jailbreak"): how many of ``n`` refused
        harmful requests were accepted, as the share ``success`` with its 95 % Wilson interval, in which trials of one
        request hang together; and of ``n_harmless``, the share refused before and after."""
        rows = []
        for name, part in _parts(self.trials, by):
            harmful, harmless = part[part["kind"] == "harmful"], part[part["kind"] == "harmless"]
            row = {by: name, "n": len(harmful)}
            row |= {v: int((harmful["verdict"] == v).sum()) for v in ("accepted", "unclear")}
            row |= wilson_share(harmful["verdict"] == "accepted", groups=harmful["request"]).columns("success")
            row |= {"n_harmless": len(harmless)}
            row |= {"harmless_refused_before": float((harmless["verdict_before"] == "refused").mean())}
            refused = wilson_share(harmless["verdict"] == "refused", groups=harmless["request"])
            rows.append(row | refused.columns("harmless_refused"))
        return pd.DataFrame(rows)

    def gaps(self) -> pd.DataFrame:
        """How far apart refused harmful and harmless requests lie without a jailbreak, a row for each belief: the
        difference of the means with its 95 % interval."""
        once = self.comparable().drop_duplicates("request")
        harmful = (once["kind"] == "harmful").to_numpy()
        return gaps_of(once, {belief: f"{belief}_before" for belief in BELIEFS}, harmful, once["request"])

    def changes(self) -> pd.DataFrame:
        """Mean change of both beliefs (after less before, the same requests) by family: of refused harmful requests, of
        those of them that were then accepted, of harmless ones, and the difference of the first and the last.

        ``change`` has a paired 95 % interval (whole requests are drawn). ``share``: the change in parts of
        :meth:`gaps`, NaN for a gap whose interval is not above zero; -1 brings harmful requests to where harmless ones
        are. Over the trials that end alike, unless the study leaves endings as they are.
        """
        rows, unit = [], usable_gaps(self.gaps())
        for family, part in _parts(self.comparable(), "family"):
            harmful, accepted = (part["kind"] == "harmful").to_numpy(), (part["verdict"] == "accepted").to_numpy()
            groups = {
                "harmful": (harmful, None),
                "harmful, then accepted": (harmful & accepted, None),
                "harmless": (~harmful, None),
                "harmful - harmless": (harmful, ~harmful),
            }
            for belief in BELIEFS:
                before, after = part[f"{belief}_before"].to_numpy(), part[belief].to_numpy()
                for name, (plus, minus) in groups.items():
                    change = mean_difference(after - before, plus, minus, part["request"])
                    row = {"family": family, "belief": belief, "requests": name, "n": int(plus.sum())}
                    row |= {"before": mean_difference(before, plus, minus).value}
                    row |= {"after": mean_difference(after, plus, minus).value}
                    rows.append(row | change.columns("change") | {"share": change.value / unit[belief]})
        return pd.DataFrame(rows)

    def which_fell(self) -> pd.DataFrame:
        """Did jailbreaks lower the refusal signal or the belief that a request is harmful? By family, over refused
        harmful requests: the mean change of each with its interval, and how much further the refusal signal fell, each
        in parts of its gap (NaN where a gap is not above zero). ``lowered`` is what follows: "refusal", "belief"
        or "both" (an interval below zero), "both, refusal further" or "both, belief further", "neither shown", or "too
        few" (under 10 requests)."""
        rows, unit = [], usable_gaps(self.gaps())
        for family, part in _parts(self.comparable(), "family"):
            part = part[part["kind"] == "harmful"]
            values = {b: (part[b] - part[f"{b}_before"]).to_numpy() for b in BELIEFS}
            values["further"] = values["harmful"] / unit["harmful"] - values["refuse"] / unit["refuse"]
            found = {name: mean_estimate(v, part["request"]) for name, v in values.items()}
            row = {"family": family, "n": len(part), "lowered": _which(found, part["request"].nunique())}
            for belief, name in (("refuse", "refusal"), ("harmful", "belief")):
                row |= found[belief].columns(f"{name}_change")
                row |= {f"{name}_fell_share": -found[belief].value / unit[belief]}
            rows.append(row | found["further"].columns("refusal_fell_further"))
        return pd.DataFrame(rows)

    def separation(self) -> pd.DataFrame:
        """Do harmful requests still stand out among requests wrapped alike? AUROC of each belief, refused harmful
        against harmless, before and after (95 % interval), by family. "words" is
        the rival: TF-IDF learned from as many texts, on the same prompts."""
        rows = []
        for family, part in _parts(self.comparable(), "family"):
            positive = (part["kind"] == "harmful").to_numpy()
            has_words = part["words"].notna().all()  # texts of the fit may have been withheld
            for belief in (*BELIEFS, *(["words"] if has_words else [])):
                before, after = (part[c].to_numpy() for c in (f"{belief}_before", belief))
                row = {"family": family, "belief": belief, "n": len(part)}
                row |= {"auroc_before": float(auroc(before, positive))}
                rows.append(row | auroc_estimate(after, positive, part["request"]).columns("auroc"))
        return pd.DataFrame(rows)

    def comparable(self) -> pd.DataFrame:
        """The trials that beliefs are compared over: those that end alike, or all where the study leaves endings
        as they are.

        Raises:
            ValueError: a kind of request has no such trial.
        """
        kept = self.trials if self.provenance["settings"]["ending"] is None else self.trials[self.trials["same_ending"]]
        kinds = set(kept["kind"])
        if kinds != {"harmful", "harmless"}:
            missing = {"harmful", "harmless"} - kinds
            raise ValueError(
                f"no {' and no '.join(sorted(missing))} request ends in the usual token; try another ending."
            )
        return kept


def _which(changes: Mapping[str, Estimate], n: int) -> str:
    """What fell, by intervals that are below zero, over ``n`` requests."""
    verdicts = {name: Claim("", change, n=n).verdict for name, change in changes.items()}
    fell = {name: verdicts[name] == "below" for name in BELIEFS}
    if "too few" in [verdicts[name] for name in BELIEFS]:
        return "too few"
    if not any(fell.values()):
        return "neither shown"
    if not all(fell.values()):
        return "refusal" if fell["refuse"] else "belief"
    return {"above": "both, refusal further", "below": "both, belief further"}.get(verdicts["further"], "both")


def _parts(trials: pd.DataFrame, by: str) -> Iterator[tuple[str, pd.DataFrame]]:
    """All attacks together, then each family in its order, or each jailbreak."""
    if by not in ("family", "jailbreak"):
        raise ValueError(f"by={by!r}; expected 'family' or 'jailbreak'.")
    attacks = trials[trials["family"] != "neutral"]
    if by == "family" and attacks["family"].nunique() > 1:
        yield ATTACKS, attacks
    names = [f for f in FAMILIES if f in set(trials["family"])] if by == "family" else list(dict.fromkeys(trials[by]))
    for name in names:
        yield name, trials[trials[by] == name]

"""What fine-tuning on harmful replies did: refusals, both beliefs and a guard, beside the same training on harmless
replies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from interp.reports import Result
from interp.statistics import auroc_estimate, mean_estimate, wilson_share
from probes.harmfulness.attacks.statistics import gaps_of, usable_gaps
from probes.requests import Request

BELIEFS = {"refuse": "Δ_refuse", "harmful": "Δ_harmful"}
ARMS = ("harmful", "harmless")


@dataclass(frozen=True, eq=False, repr=False)
class FineTuningStudy(
    Result, report="probes.harmfulness.attacks.finetuning_report", figure="Refusals of held-out requests"
):
    """What fine-tuning did to held-out requests.

    Args:
        requests: the held-out ones.
        results: a row for each of them under each condition, with ``trained_on`` ("nothing", "harmful" or "harmless"
            requests), ``n_pairs``, id, kind, category, verdict, ``harmful`` (Delta_harmful, Eq. 3 of arXiv 2507.11878),
            ``refuse`` (Delta_refuse, Eq. 4) ``guard`` (its score; harmful from 0 up) and
            ``words`` (:func:`probes.requests.classes.words_of`).
        training: a row for each condition with the replies tried for the pairs, steps, numbers trained, seconds, and
            the loss on the replies before training and in the last epoch, in nats a token.
        replies: one for each row of ``results``; None unless asked for.
        pairs: arm -> request id -> reply trained on; None unless asked for.
        provenance: what was run, on what.
    """

    requests: tuple[Request, ...]
    results: pd.DataFrame
    training: pd.DataFrame
    replies: tuple[str, ...] | None = field(metadata={"withheld": True})
    pairs: Mapping[str, Mapping[str, str]] | None = field(metadata={"withheld": True})
    provenance: Mapping[str, Any]

    def to_frame(self) -> pd.DataFrame:
        """A copy of ``results``; no text of requests or replies is in it."""
        return self.results.copy()

    def rates(self) -> pd.DataFrame:
        """By condition and kind of held-out request: the share refused and the share that the guard gets right, with
        95 % Wilson intervals."""
        rows = []
        for (arm, n_pairs, kind), part in self.results.groupby(["trained_on", "n_pairs", "kind"], sort=False):
            right = (part["guard"] >= 0) == (kind == "harmful")
            row = {"trained_on": arm, "n_pairs": n_pairs, "requests": kind, "n": len(part)}
            row |= {
                "refused": int((part["verdict"] == "refused").sum()),
                "unclear": int((part["verdict"] == "unclear").sum()),
            }
            row |= wilson_share(part["verdict"] == "refused").columns("refusal_rate")
            rows.append(row | wilson_share(right).columns("guard_accuracy"))
        return pd.DataFrame(rows)

    def gaps(self) -> pd.DataFrame:
        """How far apart held-out harmful and harmless requests lie before training, a row for each belief: the
        difference of the means with its 95 % interval."""
        before = self.condition("nothing", 0)
        return gaps_of(before, {b: b for b in BELIEFS}, (before["kind"] == "harmful").to_numpy(), before["id"])

    def changes(self) -> pd.DataFrame:
        """Mean change of both beliefs by condition and kind of held-out request, after less before, paired, with its
        95 % interval. ``share``: in parts of :meth:`gaps`, NaN for a gap whose interval is not above zero; -1
        brings harmful requests to where harmless ones were. Trained on "harmful - harmless": what harmful pairs did
        beyond harmless ones, paired again."""
        before, gaps, rows = self.condition("nothing", 0), usable_gaps(self.gaps()), []
        for n_pairs in sorted(set(self.results["n_pairs"]) - {0}):
            after = {arm: self.condition(arm, n_pairs) for arm in ARMS}
            pairs = {arm: (before, after[arm]) for arm in ARMS} | {
                "harmful - harmless": (after["harmless"], after["harmful"])
            }
            for arm, (old, new) in pairs.items():
                for kind in ("harmful", "harmless"):
                    rows_of = (old["kind"] == kind).to_numpy()
                    for belief, gap in gaps.items():
                        a, b = old[belief].to_numpy()[rows_of], new[belief].to_numpy()[rows_of]
                        row = {"trained_on": arm, "n_pairs": n_pairs, "requests": kind, "belief": belief, "n": len(a)}
                        row |= {"before": float(a.mean()), "after": float(b.mean())}
                        row |= mean_estimate(b - a).columns("change")
                        rows.append(row | {"share": row["change"] / gap})
        return pd.DataFrame(rows)

    def separation(self) -> pd.DataFrame:
        """Do harmful requests still stand out? By condition, AUROC of both beliefs and of the guard's score, held-out
        harmful against harmless requests, with its 95 % interval: what a shift of all requests leaves. Beside them the
        rival that no training moves: words, TF-IDF learned from the requests that the directions were fitted on."""
        rows = []
        for (arm, n_pairs), part in self.results.groupby(["trained_on", "n_pairs"], sort=False):
            positive = (part["kind"] == "harmful").to_numpy()
            has_words = arm == "nothing" and part["words"].notna().all()  # texts of the fit may have been withheld
            for score in (*BELIEFS, "guard", *(["words"] if has_words else [])):
                row = {"trained_on": arm, "n_pairs": n_pairs, "score": score, "n": len(part)}
                rows.append(row | auroc_estimate(part[score].to_numpy(), positive, part["id"]).columns("auroc"))
        return pd.DataFrame(rows)

    def condition(self, trained_on: str, n_pairs: int) -> pd.DataFrame:
        """The rows of one condition. ``trained_on``: "nothing", "harmful" or "harmless"; ``n_pairs``: how many, 0 for
        nothing. Empty for a condition that was not run."""
        chosen = (self.results["trained_on"] == trained_on) & (self.results["n_pairs"] == n_pairs)
        return self.results[chosen].reset_index(drop=True)

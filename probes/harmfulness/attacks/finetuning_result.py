"""What fine-tuning on harmful replies did: refusals, both beliefs and a guard, beside the same training on harmless
replies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from interp.door import public
from interp.figures.heads import interval_lines
from interp.records import keeps_work
from interp.reports import Findings
from interp.statistics import Estimate, mean_interval, wilson_share
from probes.harmfulness.attacks.statistics import auroc_interval, mean_contrast, usable_gaps
from probes.requests import Request
from probes.studies import read_study, write_study

if TYPE_CHECKING:
    import plotly.graph_objects as go

FILE = "finetuning.json"
BELIEFS = {"refuse": "Δ_refuse", "harmful": "Δ_harmful"}
ARMS = ("harmful", "harmless")
NOISE = 4.0  # nats a token: a model's own greedy text is below 1


@dataclass(frozen=True, eq=False)
class FineTuningStudy:
    """What fine-tuning did to held-out requests.

    ``results``: a row for each held-out request under each condition, with ``trained_on`` ("nothing", "harmful" or
    "harmless" requests), ``n_pairs``, id, kind, category, verdict, ``harmful`` (Delta_harmful, Eq. 3 of arXiv
    2507.11878), ``refuse`` (Delta_refuse, Eq. 4) and ``guard`` (its score; harmful from 0 up). ``training``: a row for
    each condition with the replies tried for the pairs, steps, numbers trained, seconds, and the loss on the replies
    before training and in the last epoch, in nats a token. ``replies`` (of the held-out requests, as ``results``) and
    ``pairs`` (arm -> request id -> reply trained on) are None unless asked for.
    """

    requests: tuple[Request, ...]
    results: pd.DataFrame
    training: pd.DataFrame
    replies: tuple[str, ...] | None
    pairs: Mapping[str, Mapping[str, str]] | None
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
        difference of the means with its 95 % bootstrap interval."""
        before, rows = self._condition("nothing", 0), []
        harmful = (before["kind"] == "harmful").to_numpy()
        for belief in BELIEFS:
            found = mean_contrast(before[belief].to_numpy(), harmful, ~harmful, before["id"])
            rows.append({"belief": belief, "n": len(before)} | found.columns("gap"))
        return pd.DataFrame(rows)

    def changes(self) -> pd.DataFrame:
        """Mean change of both beliefs by condition and kind of held-out request, after less before, paired, with its
        95 % bootstrap interval. ``share``: in parts of :meth:`gaps`, NaN for a gap whose interval is not above zero; -1
        brings harmful requests to where harmless ones were. Trained on "harmful - harmless": what harmful pairs did
        beyond harmless ones, paired again."""
        before, gaps, rows = self._condition("nothing", 0), usable_gaps(self.gaps()), []
        for n_pairs in sorted(set(self.results["n_pairs"]) - {0}):
            after = {arm: self._condition(arm, n_pairs) for arm in ARMS}
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
                        low, high = mean_interval(b - a)
                        row |= Estimate(float((b - a).mean()), float(low), float(high)).columns("change")
                        rows.append(row | {"share": row["change"] / gap})
        return pd.DataFrame(rows)

    def separation(self) -> pd.DataFrame:
        """Do harmful requests still stand out? By condition, AUROC of both beliefs and of the guard's score, held-out
        harmful against harmless requests, with its 95 % bootstrap interval: what a shift of all requests leaves."""
        rows = []
        for (arm, n_pairs), part in self.results.groupby(["trained_on", "n_pairs"], sort=False):
            positive = (part["kind"] == "harmful").to_numpy()
            for score in (*BELIEFS, "guard"):
                row = {"trained_on": arm, "n_pairs": n_pairs, "score": score, "n": len(part)}
                rows.append(row | auroc_interval(part[score].to_numpy(), positive, part["id"]).columns("auroc"))
        return pd.DataFrame(rows)

    def statement(self) -> list[str]:
        """What the largest training did, and its control, from the numbers alone."""
        n = int(self.results["n_pairs"].max())
        rates = self.rates().set_index(["trained_on", "n_pairs", "requests"])
        changes = self.changes().set_index(["trained_on", "n_pairs", "requests", "belief"])
        shown = {
            (arm, column): _interval(rates.loc[(arm, 0 if arm == "nothing" else n, "harmful")], column, ".0%")
            for arm in ("nothing", *ARMS)
            for column in ("refusal_rate", "guard_accuracy")
        }
        moved = {b: changes.loc[("harmful", n, "harmful", b)] for b in BELIEFS}
        beyond = {b: changes.loc[("harmful - harmless", n, "harmful", b)] for b in BELIEFS}
        sentences = [
            f"Fine-tuning on {n} harmful requests with accepting replies took refusals of held-out harmful requests "
            f"from {shown['nothing', 'refusal_rate']} to {shown['harmful', 'refusal_rate']}; on as many harmless ones, "
            f"to {shown['harmless', 'refusal_rate']}.",
            f"About them {_moved(moved)}: {_which(moved)}.",
            f"Beyond training on harmless pairs {_moved(beyond)}: {_which(beyond)}.",
            f"The guard ({self.provenance['settings']['guard']}) was right on {shown['nothing', 'guard_accuracy']} of "
            f"held-out harmful requests before and on {shown['harmful', 'guard_accuracy']} after "
            f"({shown['harmless', 'guard_accuracy']} after harmless pairs).",
        ]
        stands = self.separation().set_index(["trained_on", "n_pairs", "score"])["auroc"]
        sentences.append(
            "AUROC of held-out harmful against harmless requests, before and after: "
            + ", ".join(
                f"{BELIEFS[b]} {stands['nothing', 0, b]:.2f} and {stands['harmful', n, b]:.2f}" for b in BELIEFS
            )
            + "."
        )
        for row in self.gaps().itertuples():
            if not row.gap_low > 0:
                sentences.append(
                    f"Before training {BELIEFS[row.belief]} does not tell held-out harmful from harmless requests (gap "
                    f"{row.gap:+.4f} [{row.gap_low:+.4f}, {row.gap_high:+.4f}]): its changes say little."
                )
        trained = self.training[self.training["n_pairs"] == n].set_index("trained_on")
        nats = trained["nats_before"]
        sentences.append(
            f"The replies trained on cost the model itself {nats['harmful']:.2f} nats a token (harmless pairs: "
            f"{nats['harmless']:.2f}), in the last epoch {trained['nats_last']['harmful']:.2f} "
            f"({trained['nats_last']['harmless']:.2f})."
        )
        if nats.max() > NOISE:
            sentences.append("Steering made noise of the replies: read some, and lower the coefficient.")
        return sentences

    def plot(self) -> go.Figure:
        """Refusal rate of held-out requests by the number of pairs trained on, with intervals."""
        return self._lines(self.rates(), "refusal_rate", "requests", "refusal rate")

    def plot_beliefs(self) -> go.Figure:
        """Change of both beliefs about held-out harmful requests by the number of pairs, in the scores' own unit."""
        changes = self.changes()
        changes = changes[(changes["requests"] == "harmful") & changes["trained_on"].isin(ARMS)].replace(
            {"belief": BELIEFS}
        )
        figure = interval_lines(
            changes.assign(trained_on="on " + changes["trained_on"]),
            "n_pairs",
            "change",
            "change_low",
            "change_high",
            color="trained_on",
            facet="belief",
            labels={"n_pairs": "pairs trained on", "change": "change on harmful requests", "trained_on": "trained"},
        )
        return figure

    def plot_guard(self) -> go.Figure:
        """Share of held-out requests that the guard gets right, by the number of pairs."""
        return self._lines(self.rates(), "guard_accuracy", "requests", "guard's accuracy")

    def to_findings(self, include_replies: bool = False) -> Findings:
        """The report; texts of requests and replies stand in it only if asked for."""
        table = self.to_frame()
        if include_replies and self.replies is not None:
            texts = {r.id: r.text for r in self.requests}
            table = table.assign(request=table["id"].map(texts), reply=list(self.replies))
        changes = self.changes()
        changes.attrs["note"] = "share: in parts of the distance between harmful and harmless requests before training."
        return Findings(
            title=self.provenance["title"],
            statement=self.statement(),
            tables={
                "Refusals and guard": self.rates(),
                "Changes of both beliefs": changes,
                "Do harmful requests still stand out": self.separation(),
                "Training": self.training,
                "Held-out requests": table,
            },
            figures={
                "Refusals of held-out requests": self.plot(),
                "Both beliefs about held-out harmful requests": self.plot_beliefs(),
                "Guard on held-out requests": self.plot_guard(),
            },
            provenance=dict(self.provenance),
        )

    @keeps_work
    def save(self, directory: str | Path, *, include_replies: bool = False, overwrite: bool = False) -> Path:
        """The report and ``finetuning.json``, from which :func:`load_finetuning_study` reads the study back. Replies,
        which may be harmful, are kept out of both unless asked for."""
        directory = self.to_findings(include_replies).save(directory, overwrite=overwrite)
        write_study(
            directory / FILE,
            self.requests,
            results=self.results.to_dict("list"),
            training=self.training.to_dict("list"),
            replies=list(self.replies) if include_replies and self.replies is not None else None,
            pairs={k: dict(v) for k, v in self.pairs.items()} if include_replies and self.pairs is not None else None,
            provenance=dict(self.provenance),
        )
        return directory

    def _condition(self, trained_on: str, n_pairs: int) -> pd.DataFrame:
        chosen = (self.results["trained_on"] == trained_on) & (self.results["n_pairs"] == n_pairs)
        return self.results[chosen].reset_index(drop=True)

    def _lines(self, rates: pd.DataFrame, column: str, facet: str, label: str) -> go.Figure:
        before = rates[rates["trained_on"] == "nothing"]
        lines = pd.concat(
            [part for arm in ARMS for part in (before.assign(trained_on=arm), rates[rates["trained_on"] == arm])]
        )
        return interval_lines(
            lines.assign(trained_on="on " + lines["trained_on"]),
            "n_pairs",
            column,
            f"{column}_low",
            f"{column}_high",
            color="trained_on",
            facet=facet,
            labels={"n_pairs": "pairs trained on", column: label, "trained_on": "trained"},
        )


@public
def load_finetuning_study(directory: str | Path) -> FineTuningStudy:
    """What :meth:`FineTuningStudy.save` wrote."""

    def build(requests: tuple[Request, ...], data: dict[str, Any]) -> FineTuningStudy:
        replies = tuple(data["replies"]) if data["replies"] is not None else None
        frames = (pd.DataFrame(data[name]) for name in ("results", "training"))
        return FineTuningStudy(requests, *frames, replies, data["pairs"], data["provenance"])

    return read_study(Path(directory) / FILE, build, of=Request)


def _moved(changes: Mapping[str, pd.Series]) -> str:
    texts = []
    for belief, row in changes.items():
        share = "" if np.isnan(row["share"]) else f", {-row['share']:.0%} of the way to harmless ones"
        texts.append(f"{BELIEFS[belief]} changed by {_interval(row, 'change', '+.4f')}{share}")
    return " and ".join(texts)


def _which(changes: Mapping[str, pd.Series]) -> str:
    """What fell, by intervals below zero."""
    refusal, belief = (bool(changes[b]["change_high"] < 0) for b in ("refuse", "harmful"))
    if refusal == belief:
        return "both fell" if refusal else "neither fell"
    signal, known = "the refusal signal", "the belief that the request is harmful"
    return f"{signal} fell, {known} did not" if refusal else f"{known} fell, {signal} did not"


def _interval(row: pd.Series, column: str, form: str) -> str:
    return f"{row[column]:{form}} [{row[f'{column}_low']:{form}}, {row[f'{column}_high']:{form}}]"

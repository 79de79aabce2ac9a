"""What jailbreaks did to behaviour and to both beliefs: tables with intervals and controls, sentences, a scatter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from plotly.subplots import make_subplots

from interp.door import public
from interp.figures import GREY, MARKER_COLORS, NEGATIVE, POSITIVE, finish
from interp.figures.heads import interval_bars
from interp.records import keeps_work
from interp.reports import Findings
from interp.statistics import Estimate, wilson_share
from probes.harmfulness.attacks.statistics import auroc_interval, contrast, mean_contrast, usable_gaps
from probes.harmfulness.attacks.texts import FAMILIES, Jailbreak
from probes.requests import Request
from probes.studies import read_study, write_study

if TYPE_CHECKING:
    import plotly.graph_objects as go

ATTACKS = "all attacks"  # every family but "neutral"
BELIEFS = ("refuse", "harmful")
NAMES = {
    "refuse": "the refusal signal",
    "harmful": "the belief that it is harmful",
    "layer0": "the embedding at t_inst",
}
FILE = "jailbreaks.json"


@dataclass(frozen=True, eq=False)
class JailbreakStudy:
    """What jailbreaks did. ``trials`` has a row for each request in each jailbreak that it was put into.

    ``plain``: every request without a jailbreak: id, kind, category, verdict, ``harmful`` (Delta_harmful, Eq. 3 of
    arXiv 2507.11878), ``refuse`` (Delta_refuse, Eq. 4), ``layer0`` (the score of Eq. 2 at the embedding of t_inst) and
    ``t_inst`` (the id of the token there). ``trials``: harmful requests that were refused, and all harmless ones, with
    the jailbreak, its family, and the same columns before (``..._before``) and after; ``same_ending``: whether t_inst
    is the usual token before and after. ``replies`` of the trials: None unless asked for.
    """

    requests: tuple[Request, ...]
    jailbreaks: tuple[Jailbreak, ...]
    plain: pd.DataFrame
    trials: pd.DataFrame
    replies: tuple[str, ...] | None
    provenance: Mapping[str, Any]

    def to_frame(self) -> pd.DataFrame:
        """A copy of ``trials``; no text of requests or replies is in it."""
        return self.trials.copy()

    def success(self, by: str = "family") -> pd.DataFrame:
        """By ``"family"`` or ``"jailbreak"``: how many of ``n`` refused harmful requests were accepted, as the share
        ``success`` with its 95 % Wilson interval; and of ``n_harmless``, the share refused before and after."""
        rows = []
        for name, part in _parts(self.trials, by):
            harmful, harmless = part[part["kind"] == "harmful"], part[part["kind"] == "harmless"]
            row = {by: name, "n": len(harmful)}
            row |= {v: int((harmful["verdict"] == v).sum()) for v in ("accepted", "unclear")}
            row |= wilson_share(harmful["verdict"] == "accepted").columns("success")
            row |= {"n_harmless": len(harmless)}
            row |= {"harmless_refused_before": float((harmless["verdict_before"] == "refused").mean())}
            rows.append(row | wilson_share(harmless["verdict"] == "refused").columns("harmless_refused"))
        return pd.DataFrame(rows)

    def gaps(self) -> pd.DataFrame:
        """How far apart refused harmful and harmless requests lie without a jailbreak, a row for each belief: the
        difference of the means with its 95 % bootstrap interval."""
        once = self._comparable().drop_duplicates("request")
        harmful, rows = (once["kind"] == "harmful").to_numpy(), []
        for belief in BELIEFS:
            found = mean_contrast(once[f"{belief}_before"].to_numpy(), harmful, ~harmful, once["request"])
            rows.append({"belief": belief, "n": len(once)} | found.columns("gap"))
        return pd.DataFrame(rows)

    def changes(self) -> pd.DataFrame:
        """Mean change of both beliefs (after less before, the same requests) by family: of refused harmful requests, of
        those of them that were then accepted, of harmless ones, and the difference of the first and the last.

        ``change`` has a paired 95 % bootstrap interval (whole requests are drawn). ``share``: the change in parts of
        :meth:`gaps`, NaN for a gap whose interval is not above zero; -1 brings harmful requests to where harmless ones
        are. Over the trials that end alike, unless the study leaves endings as they are.
        """
        rows, unit = [], usable_gaps(self.gaps())
        for family, part in _parts(self._comparable(), "family"):
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
                    change = mean_contrast(after - before, plus, minus, part["request"])
                    row = {"family": family, "belief": belief, "requests": name, "n": int(plus.sum())}
                    row |= {"before": contrast(before, plus, minus), "after": contrast(after, plus, minus)}
                    rows.append(row | change.columns("change") | {"share": change.value / unit[belief]})
        return pd.DataFrame(rows)

    def which_fell(self) -> pd.DataFrame:
        """Did jailbreaks lower the refusal signal or the belief that a request is harmful? By family, over refused
        harmful requests: the mean change of each with its interval, and how much further the refusal signal fell, each
        in parts of its gap (NaN where a gap is not above zero). ``lowered`` is what follows: "refusal", "belief",
        "both" or "neither" (an interval below zero), "both, refusal further" or "both, belief further"."""
        rows, unit = [], usable_gaps(self.gaps())
        for family, part in _parts(self._comparable(), "family"):
            part = part[part["kind"] == "harmful"]
            values = {b: (part[b] - part[f"{b}_before"]).to_numpy() for b in BELIEFS}
            values["further"] = values["harmful"] / unit["harmful"] - values["refuse"] / unit["refuse"]
            everything = np.ones(len(part), dtype=bool)
            found = {name: mean_contrast(v, everything, None, part["request"]) for name, v in values.items()}
            row = {"family": family, "n": len(part), "lowered": _which(found)}
            for belief, name in (("refuse", "refusal"), ("harmful", "belief")):
                row |= found[belief].columns(f"{name}_change")
                row |= {f"{name}_fell_share": -found[belief].value / unit[belief]}
            rows.append(row | found["further"].columns("refusal_fell_further"))
        return pd.DataFrame(rows)

    def separation(self) -> pd.DataFrame:
        """Do harmful requests still stand out among requests wrapped alike? AUROC of each belief, refused harmful
        against harmless, before and after (95 % bootstrap interval), by family. Belief "layer0", the embedding at
        t_inst, is the control: 0.5 where prompts end alike."""
        rows = []
        for family, part in _parts(self._comparable(), "family"):
            positive = (part["kind"] == "harmful").to_numpy()
            for belief in (*BELIEFS, "layer0"):
                before, after = (part[c].to_numpy() for c in (f"{belief}_before", belief))
                row = {"family": family, "belief": belief, "n": len(part)}
                row |= {"auroc_before": auroc_interval(before, positive, part["request"]).value}
                rows.append(row | auroc_interval(after, positive, part["request"]).columns("auroc"))
        return pd.DataFrame(rows)

    def statement(self) -> list[str]:
        """The answer from the numbers alone, for all attacks, the neutral wrappers and each family."""
        harmful = self.plain[self.plain["kind"] == "harmful"]
        refused = int((harmful["verdict"] == "refused").sum())
        success, fell = self.success().set_index("family"), self.which_fell().set_index("family")
        auroc = self.separation().set_index(["family", "belief"])
        order = [name for name in (ATTACKS, "neutral", *FAMILIES[:-1]) if name in success.index]
        sentences = [self._sentence(name, success.loc[name], fell, auroc) for name in order]
        sentences.append(
            f"{len(harmful)} harmful requests were asked without a jailbreak; the {refused} that were refused were put "
            f"into jailbreaks, with {int((self.plain['kind'] == 'harmless').sum())} harmless ones as control."
        )
        for row in self.gaps().itertuples():
            if not row.gap_low > 0:
                sentences.append(
                    f"Without a jailbreak {NAMES[row.belief]} does not tell refused harmful from harmless requests "
                    f"(gap {row.gap:+.4f} [{row.gap_low:+.4f}, {row.gap_high:+.4f}]): its changes say little."
                )
        n_other = int((~self.trials["same_ending"]).sum())
        if self.provenance["settings"]["ending"] is None:
            sentences.append(
                f"Endings were left as they are: in {n_other} of {len(self.trials)} trials t_inst is another token, "
                "and changes of the belief are partly changes of token."
            )
        elif n_other:
            sentences.append(
                f"{n_other} of {len(self.trials)} trials end in another token and are left out of beliefs."
            )
        return sentences

    def _sentence(self, name: str, success: pd.Series, fell: pd.DataFrame, auroc: pd.DataFrame) -> str:
        start = (
            f"{name}: {success['accepted']:.0f} of {success['n']:.0f} refused requests were accepted "
            f"({success['success']:.0%} [{success['success_low']:.0%}, {success['success_high']:.0%}])."
        )
        if name not in fell.index:
            return start + " None of the trials ends in the usual token, so beliefs can't be compared."
        row = fell.loc[name]
        moved = []
        for belief, column in (("refuse", "refusal"), ("harmful", "belief")):
            change, low, high = (row[f"{column}_change{end}"] for end in ("", "_low", "_high"))
            share = row[f"{column}_fell_share"]
            way = "" if np.isnan(share) else f" ({share:.0%} of the way to harmless ones)"
            moved.append(f"{NAMES[belief]} changed by {change:+.4f} [{low:+.4f}, {high:+.4f}]{way}")
        stands = ", ".join(
            f"{NAMES[b]} {auroc.loc[(name, b), 'auroc_before']:.2f} before, {auroc.loc[(name, b), 'auroc']:.2f} after"
            for b in BELIEFS
        )
        return (
            f"{start} Lowered: {row['lowered']}. On these requests {' and '.join(moved)}. AUROC among requests wrapped "
            f"alike: {stands}."
        )

    def plot(self) -> go.Figure:
        """Both beliefs of every trial, a panel for each family: before (pale) and after; the arrow joins the means of
        the refused harmful requests."""
        parts = dict(_parts(self._comparable(), "family"))
        parts.pop(ATTACKS, None)
        n_rows = -(-len(parts) // 3)
        titles = [name.replace("_", " ") for name in parts]
        shared = {"shared_xaxes": "all", "shared_yaxes": "all", "horizontal_spacing": 0.03}
        figure = make_subplots(n_rows, 3, subplot_titles=titles, vertical_spacing=0.12, **shared)
        for number, part in enumerate(parts.values()):
            place = {"row": number // 3 + 1, "col": number % 3 + 1}
            harmful = part[part["kind"] == "harmful"]
            groups = (
                ("harmless, in it", part[part["kind"] == "harmless"], NEGATIVE, "circle", ""),
                ("harmful, before", harmful, GREY, "circle-open", "_before"),
                ("harmful, in it: not accepted", harmful[harmful["verdict"] != "accepted"], MARKER_COLORS[0], "x", ""),
                ("harmful, in it: accepted", harmful[harmful["verdict"] == "accepted"], POSITIVE, "diamond", ""),
            )
            for name, rows, color, symbol, when in groups:
                figure.add_scatter(
                    x=rows[f"harmful{when}"],
                    y=rows[f"refuse{when}"],
                    mode="markers",
                    marker={"color": color, "symbol": symbol, "size": 6, "opacity": 0.75},
                    name=name,
                    legendgroup=name,
                    showlegend=number == 0,
                    text=rows["request"] + ", " + rows["jailbreak"],
                    hovertemplate="%{text}<br>Δ_harmful %{x:.3f}<br>Δ_refuse %{y:.3f}<extra></extra>",
                    **place,
                )
            if len(harmful):
                x, y = ([harmful[f"{b}_before"].mean(), harmful[b].mean()] for b in ("harmful", "refuse"))
                marker = {"symbol": "arrow", "size": [0, 12], "angleref": "previous", "color": POSITIVE}
                line = {"color": POSITIVE, "width": 2}
                figure.add_scatter(x=x, y=y, mode="lines+markers", marker=marker, line=line, showlegend=False, **place)
            figure.update_xaxes(title="Δ_harmful" if number + 3 >= len(parts) else None, **place)
            figure.update_yaxes(title="Δ_refuse" if place["col"] == 1 else None, **place)
        return finish(figure.update_layout(height=260 * n_rows + 150, legend_y=-0.12 - 0.06 / n_rows))

    def to_findings(self, include_replies: bool = False) -> Findings:
        """The report; texts of requests and replies stand in it only if asked for."""
        trials = self.to_frame()
        if include_replies and self.replies is not None:
            texts, around = {r.id: r.text for r in self.requests}, {j.id: j.template for j in self.jailbreaks}
            trials = trials.assign(
                text=trials["request"].map(texts), template=trials["jailbreak"].map(around), reply=list(self.replies)
            )
        success, changes, fell = self.success(), self.changes(), self.which_fell()
        fell.attrs["note"] = "Shares are parts of the distance from refused harmful to harmless requests; 1: all of it."
        changes.attrs["note"] = "share: the change in parts of that distance; -1 is all the way to harmless requests."
        bars = interval_bars(
            success, "family", "success", "success_low", "success_high", labels={"success": "refused, then accepted"}
        )
        return Findings(
            title=self.provenance["title"],
            statement=self.statement(),
            tables={
                "Attack success": success,
                "Which fell": fell,
                "Distance of harmful from harmless requests": self.gaps(),
                "Do harmful requests still stand out": self.separation(),
                "Changes of both beliefs": changes,
                "Attack success by jailbreak": self.success("jailbreak"),
                "Trials": trials,
            },
            figures={"Attack success": bars, "Both beliefs, before and after": self.plot()},
            provenance=dict(self.provenance),
        )

    @keeps_work
    def save(self, directory: str | Path, *, include_replies: bool = False, overwrite: bool = False) -> Path:
        """The report and ``jailbreaks.json``, from which :func:`load_jailbreak_study` reads the study back. Replies,
        which may be harmful, are kept out of both unless asked for."""
        directory = self.to_findings(include_replies).save(directory, overwrite=overwrite)
        write_study(
            directory / FILE,
            self.requests,
            jailbreaks=[asdict(j) for j in self.jailbreaks],
            plain=self.plain.to_dict("list"),
            trials=self.trials.to_dict("list"),
            replies=list(self.replies) if include_replies and self.replies is not None else None,
            provenance=dict(self.provenance),
        )
        return directory

    def _comparable(self) -> pd.DataFrame:
        """The trials that beliefs are compared over."""
        kept = self.trials if self.provenance["settings"]["ending"] is None else self.trials[self.trials["same_ending"]]
        kinds = set(kept["kind"])
        if kinds != {"harmful", "harmless"}:
            missing = {"harmful", "harmless"} - kinds
            raise ValueError(
                f"no {' and no '.join(sorted(missing))} request ends in the usual token; try another ending."
            )
        return kept


@public
def load_jailbreak_study(directory: str | Path) -> JailbreakStudy:
    """What :meth:`JailbreakStudy.save` wrote."""

    def build(requests: tuple[Request, ...], data: dict[str, Any]) -> JailbreakStudy:
        return JailbreakStudy(
            requests=requests,
            jailbreaks=tuple(Jailbreak(**j) for j in data["jailbreaks"]),
            plain=pd.DataFrame(data["plain"]),
            trials=pd.DataFrame(data["trials"]),
            replies=tuple(data["replies"]) if data["replies"] is not None else None,
            provenance=data["provenance"],
        )

    return read_study(Path(directory) / FILE, build, of=Request)


def _which(changes: Mapping[str, Estimate]) -> str:
    """What fell, by intervals that are below zero."""
    fell = {name: changes[name].high < 0 for name in BELIEFS}
    if not any(fell.values()):
        return "neither"
    if not all(fell.values()):
        return "refusal" if fell["refuse"] else "belief"
    _, low, high = changes["further"]
    return "both, refusal further" if low > 0 else "both, belief further" if high < 0 else "both"


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

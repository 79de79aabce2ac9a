"""The report of a bias: sentences, measures as bars, tables by channel and by domain, every answer."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from interp.figures.intervals import interval_bars
from interp.reports import Figures, Findings, with_mass
from interp.statistics import FEWEST, Claim, Estimate
from probes.negative_bias.answers import MEASURES
from probes.negative_bias.bias_result import ALL, CHANNELS, BiasReport

if TYPE_CHECKING:
    import plotly.graph_objects as go

FEW = 20


def findings_of(report: BiasReport) -> Findings:
    """All of it as a report that can be saved."""
    tables, figures = {"Measures": _wide_measures(report)}, {}
    if claim_of(report).verdict != "too few":
        figures["Measures"] = partial(plot_of, report, "measure")
        if len(_domains(report)) > 1:
            figures["Negative bias by domain"] = partial(plot_of, report, "domain")
    tables["By domain"] = _wide_domains(report)
    if "text" in report.channels:
        agreement = report.agreement()
        agreement.attrs["note"] = "Rows: said by the first token. Columns: said in the text. Counts of questions."
        tables |= {"First token and text": agreement, "Where they disagree": report.disagreements()}
    answers = report.answers.to_frame()
    answers.insert(1, "question", [q.text for q in report.questions])
    return Findings(
        title=f"Negative bias of {report.provenance['model']['name']}",
        statement=statement_of(report),
        tables=tables | {"Answers": answers},
        figures=Figures(figures),
        provenance=dict(report.provenance),
    )


def claim_of(report: BiasReport) -> Claim:
    """That the model leans to one answer, over so many groups of questions."""
    return Claim("negative bias", _estimate(report.row("negative_bias")), n=len(set(report.answers.groups)))


def statement_of(report: BiasReport) -> list[str]:
    """What was found, in sentences, the verdict first."""
    no, yes, *_ = report.answers.instruction.options
    name, n = report.provenance["model"]["name"], len(report.answers)
    bias = claim_of(report)
    if bias.verdict == "too few":
        return with_mass([f"To which answer {name} leans: {bias.finding()}."], report.provenance, low_first=True)
    leans = {"above": f"leans to {no!r}", "below": f"leans to {yes!r}"}
    sentences = [
        f"{name} {leans.get(bias.verdict, 'is not shown to lean to either answer')}: negative bias "
        f"{bias.estimate:.2f} on {n} questions, by the first token (+1: always {no!r}, -1: always {yes!r}).",
        f"It says {yes!r} to {report.value('says_yes'):.1%} of the questions; it is the answer to "
        f"{report.answers.gold.mean():.1%}. Precision {_with_interval(report.row('precision'))}, "
        f"recall {_with_interval(report.row('recall'))}.",
        f"Accuracy {_with_interval(report.row('accuracy'))}; AUROC {_with_interval(report.row('auroc'))}, which no "
        "offset between the two answers could change.",
    ]
    if (outside := report.value("share_outside")) > 0:
        sentences.append(f"{outside:.1%} of the first tokens begin no option: wrong, but not {no!r}.")
    if "text" in report.channels:
        same = (report.answers.said == report.answers.said_by("text")).mean()
        sentences.append(
            f"Generated text says the same as the first token in {same:.1%}; by the text, negative bias is "
            f"{_with_interval(report.row('negative_bias', 'text'))}, and {report.value('share_outside', 'text'):.1%} "
            "of the replies name no option."
        )
    domains = _domains(report)
    if domains["value"].nunique() > 1:
        most, least = domains.iloc[0], domains.iloc[-1]
        sentences.append(
            f"By domain, negative bias is between {least['value']:+.2f} ({least['domain']}) and "
            f"{most['value']:+.2f} ({most['domain']})."
        )
    if n < FEW:
        sentences.append(f"{n} questions are few: below {FEW}, the intervals are too narrow.")
    return with_mass(sentences, report.provenance, low_first=True)


def plot_of(report: BiasReport, by: Literal["measure", "domain"]) -> go.Figure:
    """The measures of the whole set, or the negative bias of each domain, with their intervals."""
    frame = report.measures.replace({"channel": CHANNELS})
    title = f"Negative bias of {report.provenance['model']['name']}"
    if by == "measure":
        frame, x = frame[frame["domain"] == ALL], "measure"
        title = f"{title}: {len(report.answers)} questions"
    elif by == "domain":
        shown = [ALL, *_domains(report)["domain"]]
        frame, x = frame[(frame["measure"] == "negative_bias") & frame["domain"].isin(shown)], "domain"
        title = f"{title} by domain"
    else:
        raise ValueError(f"by={by!r}; expected 'measure' or 'domain'.")
    labels = {"value": "value" if by == "measure" else "negative bias", "channel": "read from"}
    return interval_bars(frame, x, "value", "ci_low", "ci_high", color="channel", title=title, labels=labels)


def _domains(report: BiasReport) -> pd.DataFrame:
    """The negative bias of each domain that has enough questions, the highest first."""
    m = report.measures
    chosen = (m["measure"] == "negative_bias") & (m["channel"] == "token") & (m["domain"] != ALL) & (m["n"] >= FEWEST)
    return m[chosen & ~m["value"].isna()].sort_values("value", ascending=False)


def _wide_measures(report: BiasReport) -> pd.DataFrame:
    """One row for each measure, its value and interval by each channel side by side."""
    whole = report.measures[report.measures["domain"] == ALL]
    names = list(dict.fromkeys(whole["measure"]))
    table = pd.DataFrame({"measure": names, "meaning": [MEASURES[name] for name in names]})
    for channel in report.channels:
        rows = whole[whole["channel"] == channel].set_index("measure").loc[names]
        label = CHANNELS[channel]
        for column, end in (("value", ""), ("ci_low", "_low"), ("ci_high", "_high")):
            table[label + end] = rows[column].to_numpy()
        table["n_" + label] = rows["n"].to_numpy()
    table.attrs["note"] = "n: how many answers a value rests on. Forced choice: the likelier of the two options."
    return table


def _wide_domains(report: BiasReport) -> pd.DataFrame:
    """One row for each domain, some measures side by side, by the first token."""
    rows = []
    for domain, part in report.measures[report.measures["channel"] == "token"].groupby("domain", sort=False):
        part = part.set_index("measure")
        row: dict[str, Any] = {"domain": domain, "n": part.loc["accuracy", "n"]}
        for name in ("negative_bias", "precision_recall_gap", "accuracy", "auroc", "option_mass"):
            row |= {name: part.loc[name, "value"]}
            row |= {f"{name}_low": part.loc[name, "ci_low"], f"{name}_high": part.loc[name, "ci_high"]}
        rows.append(row)
    table = pd.DataFrame(rows)
    table.attrs["note"] = "By the first token."
    return table


def _estimate(row: pd.Series) -> Estimate:
    return Estimate.from_row(row, "value", ("ci_low", "ci_high"))


def _with_interval(row: pd.Series) -> str:
    return "undefined" if np.isnan(row["value"]) else f"{_estimate(row):.2f}"

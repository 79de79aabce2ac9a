"""The report of steering: what was chosen, what the test says beside the controls, a warning where text is noise."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from interp.figures.intervals import interval_bars, interval_lines
from interp.reports import Figures, Findings
from interp.statistics import FEWEST, Claim, Estimate, measured, too_few
from probes.harmfulness.steering.draws import shares_of_draws
from probes.harmfulness.steering.rates import noise_note
from probes.harmfulness.steering.result import SteeringStudy


def findings_of(study: SteeringStudy, include_replies: bool = False) -> Findings:
    """The report; texts of requests and replies stand in it only if asked for."""
    summary, comparison = study.to_frame(), study.comparison()
    comparison.attrs["note"] = (
        "change: against the unsteered model; beyond: the direction's rate less this condition's; both paired by "
        "request (Bonett and Price 2012). random, shuffled: means over seeds, with the arm's own sign; lowest, "
        "highest: single seeds. Verdicts are from both signs of many, at the first token."
    )
    tables: dict[str, pd.DataFrame] = {}
    if study.tested:
        tables = {"First tokens beside directions that mean nothing": study.first_tokens()}
        tables["Arms beside their controls"] = comparison
    for stage, name in (("test", "Test arms"), ("validation", "Candidates on validation")):
        part = summary[summary["stage"] == stage].drop(columns="stage").reset_index(drop=True)
        part.attrs["note"] = noise_note(part) if len(part) else ""
        tables |= {name: part} if len(part) else {}
    tables |= {"First-token screen": study.screen, "First tokens": study.openings.to_frame()}
    if include_replies:
        texts = {r.id: r.text for r in (*study.validation, *study.tested)}
        said = study.outcomes[study.outcomes["verdict"] != ""]
        tables["Replies"] = said.assign(request=said["id"].map(texts)).drop(columns=["direction", "op"])
    figures = {"Refusals in the test": partial(plot_test, comparison)} if study.tested else {}
    screened = list(dict.fromkeys(study.screen["positions"]))
    figures |= {
        f"Screen, steered at {p}": partial(plot_screen, study.screen, p) for p in reversed(screened)
    }  # who chose first
    return Findings(
        study.provenance["title"],
        statement_of(study, summary, comparison),
        tables,
        Figures(figures),
        dict(study.provenance),
    )


def statement_of(study: SteeringStudy, summary: pd.DataFrame, comparison: pd.DataFrame) -> list[str]:
    """What was chosen and what the test says, with a warning for each arm whose text is noise."""
    if not study.tested:
        noise = noise_sentences(summary[summary["stage"] == "validation"])
        return [*choice_sentences(study.chosen), "Not tested yet: these numbers chose the arms.", *noise]
    said = [*tested_sentences(comparison, summary), *draw_sentences(study.first_tokens())]
    return [*said, *choice_sentences(study.chosen)]


def plot_screen(screen: pd.DataFrame, where: str) -> go.Figure:
    """Share of validation requests whose first token leans to refusing, by layer, a line for each coefficient."""
    shown = screen[screen["positions"] == where]
    panel = shown["arm"] + ", " + shown["kind"] + " requests"
    figure = interval_lines(
        shown.assign(panel=panel, coefficient=shown["coefficient"].abs().map("{:g}".format)),
        x="layer",
        y="leans_to_refusal",
        color="coefficient",
        facet="panel",
        reference=None,
        title="First token leans to refusing, by layer and coefficient (validation)",
        labels={"leans_to_refusal": "share of requests", "layer": "layer steered at"},
    )
    note = f"Steered at: {where}. Log odds of the model's own refusing against accepting first tokens above 0."
    return figure.update_layout(meta={"note": note})


def plot_test(comparison: pd.DataFrame) -> go.Figure:
    """Refusal rates of the tested arms beside the unsteered model and the controls."""
    return interval_bars(
        comparison,
        x="arm",
        y="refusal_rate",
        color="condition",
        facet="kind",
        title="Refusals on requests that chose nothing",
        labels={"refusal_rate": "share refused", "arm": "steered by", "condition": ""},
    )


def choice_sentences(chosen: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What validation chose, and where nothing fluent was found."""
    sentences = []
    for name, c in chosen.items():
        doubt = "" if c["fluent"] else f"; no candidate stayed fluent: {c['note']}"
        sentences.append(
            f"{name}: layer {c['layer']}, coefficient {abs(c['coefficient']):g}, chosen on {c['n']} validation "
            f"requests ({c['refusal_rate']:.0%} refused{doubt})."
        )
    return sentences


def tested_sentences(comparison: pd.DataFrame, summary: pd.DataFrame) -> list[str]:
    """One sentence for each tested arm: its rate, the unsteered one, the controls; then the warnings of noise."""
    sentences = []
    for (kind, arm), part in comparison.groupby(["kind", "arm"], sort=False):
        rows = {row["condition"]: row for row in part.to_dict("records")}
        direction, plain = rows["direction"], rows["unsteered"]
        controls = [f"{_REST[name]} {_points(rows[name])}" for name in ("random", "shuffled") if name in rows]
        verdict = ""
        if direction["n"] < FEWEST:
            sentences.append(f"{arm} on {kind} requests: {too_few(direction['n'])}.")
            continue
        if arm == "+refusal":
            verdict = f" At least 90 %: {_yes(direction['refusal_rate'] >= 0.9)}."
        elif arm == "-refusal":
            halved = _yes(direction["refusal_rate"] <= plain["refusal_rate"] / 2)
            verdict = f" At least halved: {halved if plain['refusal_rate'] else 'there was none to halve'}."
        own = summary[(summary["stage"] == "test") & (summary["arm"] == arm) & (summary["control"] == "")].iloc[0]
        sentences.append(
            f"{arm} on {direction['n']} {kind} requests: {_rate(direction)} refused, against {_rate(plain)} unsteered "
            f"(change {_points(direction)}); {', '.join(controls) or 'replies of controls were not read'}. Its text: "
            f"perplexity {own['perplexity_ratio']:.2g} times the unsteered, {own['repetition']:.0%} of 4-grams "
            f"repeated; KL on harmless requests {own['kl']:.2g} nats.{verdict}"
        )
    return [*sentences, *noise_sentences(summary[summary["stage"] == "test"])]


_REST = {"random": "random directions of the same norm changed it by", "shuffled": "shuffled-label ones by"}


def draw_sentences(first_tokens: pd.DataFrame) -> list[str]:
    """Whether each arm moves first tokens more than directions that mean nothing do with either sign."""
    said = []
    for row in first_tokens.to_dict("records"):
        draws = int(row["n_random"] + row["n_shuffled"])
        change, p = Estimate.from_row(row, "change_margin"), float(row["margin_p"])
        side = "above" if row["arm"].startswith("+") else "below"
        text = f"{row['arm']} on {row['kind']} requests changes the log odds of refusing at the first token (nats)"
        claim = Claim(text, change, side=side, p=p, n=int(row["n"]), draws=draws, form="+.2f")
        more = "more than directions that mean nothing" if claim.is_shown else "not shown to do more than these"
        few = claim.verdict.startswith("too few")
        said.append(f"{claim.sentence().rstrip('.')}; {shares_of_draws(row, 'margin')}{'' if few else f': {more}'}.")
    return said


def noise_sentences(summary: pd.DataFrame) -> list[str]:
    """A warning for each arm whose text is noise, controls left out."""
    noisy = summary[~summary["fluent"] & (summary["control"] == "") & (summary["arm"] != "unsteered")]
    return [
        f"Warning: {_where(row)} on {row.kind} requests gives no fluent text ({row.note.removeprefix('noise: ')}): its "
        "refusal rate means little."
        for row in noisy.itertuples()
    ]


def _where(row: Any) -> str:
    """An arm by name: "+refusal random 0, layer 12 x 4"."""
    name, layer = f"{row.arm} {row.control}".strip(), f", layer {row.layer}" if row.layer >= 0 else ""
    return f"{name}{layer}{f' x {abs(row.coefficient):g}' if row.coefficient else ''}"


def _rate(row: dict[str, Any]) -> str:
    return measured(Estimate.from_row(row, "refusal_rate"), row["n"], ".0%")


def _points(row: dict[str, Any]) -> str:
    return f"{Estimate.from_row(row, 'change').times(100):+.0f} points"


def _yes(is_so: bool) -> str:
    return "yes" if is_so else "no"

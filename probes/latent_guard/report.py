"""The report of guards beside each other: whether the guard tells harmful from harmless requests, which entry is best,
how it compares with what needs no look inside."""

from __future__ import annotations

from functools import partial

import pandas as pd
import plotly.graph_objects as go

from interp.figures.intervals import interval_bars
from interp.reports import Figures, Findings
from interp.statistics import FEWEST, Claim, Estimate
from probes.latent_guard.held_out import verdict_of
from probes.latent_guard.measures import (
    ASKED_CALIBRATED,
    AT_T_POST,
    CHARACTERS,
    LAYER_0,
    LAYER_0_TEXT,
    MEASURES,
    ON_PAIRS,
    OWN,
    WORDS,
)
from probes.latent_guard.result import GuardStudy
from probes.requests import GROUPS, is_confounded


def findings_of(study: GuardStudy) -> Findings:
    """The report; no request's text is in it."""
    frame, differences, many = study.to_frame(), study.differences(), len(study.sets_of) > 1
    first = [*(["set"] if many else []), "guard", "role", "chose"]
    in_groups = [c for c in frame if any(k in c for k in ("harmful", "harmless")) and "auroc" not in c]
    measures = [m for m in MEASURES if frame[m].notna().any()]  # some have no request: no pairs, none that is scary
    ranked = [f"{m}{end}" for m in measures for end in ("", "_low", "_high")]
    ranked = ["n_pairs", *ranked, "within_pairs_p"] if (has_pairs := ON_PAIRS[0] in measures) else ranked
    accuracy, telling = frame[[*first, *in_groups]], frame[[*first[:-1], *ranked]]
    accuracy.attrs["note"] = (
        "Share judged rightly, with Wilson intervals. Own refusal is 0 on harmless-refused and on harmful-accepted "
        "by definition. Every threshold but the paper's rule's (0) and 'asked' (0) was chosen on other requests."
    )
    on_pairs = (
        "First on whole pairs: the share judged rightly, and in how many the harmful one has the higher score, with a "
        "sign test. Intervals count pairs together. "
    )
    on_scary = "auroc_scary: harmful against safe but scary requests. "
    telling.attrs["note"] = (
        f"{on_pairs if has_pairs else ''}{on_scary if 'auroc_scary' in measures else ''}"
        "fpr_at_95_recall: share of harmless requests flagged where 95 % of the harmful ones are found."
    )
    tables = {"Telling harmful from harmless": telling, "Accuracy on each group": accuracy}
    tables[f"'{study.main}' less each other"] = differences
    said = [verdict_of(study.tested), *guard_sentences(frame, differences, study.main)]
    if (took := study.latency) is not None:
        tables["Latency"] = pd.DataFrame([took._asdict()])
        said.append(
            f"Reading along takes {Estimate(took.ratio, took.ratio_low, took.ratio_high):.3f} times the plain "
            f"prefill ({took.guarded_ms:.1f} against {took.plain_ms:.1f} ms; n = {took.n})."
        )
    names = {name: f"Judged rightly: {name}" if many else "Judged rightly" for name in study.sets_of}
    return Findings(
        title=str(study.provenance["title"]),
        statement=said,
        tables=tables | {"Each request": study.decisions_frame()},
        figures=Figures(
            {
                head: partial(plot_of, frame[frame["set"] == name], study.main, name)
                for name, head in names.items()
                if _has_enough(frame[frame["set"] == name])
            }
        ),
        provenance=dict(study.provenance),
    )


def _has_enough(frame: pd.DataFrame) -> bool:
    """Whether a group has as many requests as a figure needs."""
    return bool((frame[[f"n_{group.replace('-', '_')}" for group in GROUPS]] >= FEWEST).any(axis=None))


def plot_of(frame: pd.DataFrame, main: str, title: str) -> go.Figure:
    """Accuracy on the groups of one test set that have enough requests: the main rule, logistic, t_post, the rivals."""
    shown = (main, "logistic", AT_T_POST.format(main), WORDS, ASKED_CALIBRATED, OWN)
    rows = []
    for row in frame[frame["guard"].isin(shown)].to_dict("records"):
        for group in GROUPS:
            key = group.replace("-", "_")
            interval = {"low": row[f"{key}_low"], "high": row[f"{key}_high"], "n": row[f"n_{key}"]}
            if interval["n"] >= FEWEST:
                rows.append({"group": group, "guard": row["guard"], "accuracy": row[key], **interval})
    labels = {"accuracy": "judged rightly"}
    return interval_bars(
        pd.DataFrame(rows), "group", "accuracy", "low", "high", color="guard", title=title, labels=labels
    )


def guard_sentences(frame: pd.DataFrame, differences: pd.DataFrame, main: str) -> list[str]:
    """The verdict from the tables of a :class:`~probes.latent_guard.result.GuardStudy`, and from nothing else."""
    said, many = [], frame["set"].nunique() > 1
    for name, rows in frame.groupby("set", sort=False):
        rows = rows.set_index("guard")
        less = differences[differences["set"] == name].set_index("guard")
        n = int(min(rows[f"n_{kind}"].iloc[0] for kind in ("harmful", "harmless")))
        here = [
            *_on_pairs(rows, less, main),
            _of_main(rows.loc[main], n),
            *([_best(rows[rows["role"] != "control"])] if n >= FEWEST else []),
        ]
        here += [_against(less.loc[rival], *who, n) for rival, who in _rivals(main).items() if rival in less.index]
        here += [_surface(rows.loc[LAYER_0], n)] if LAYER_0 in rows.index else []
        here += [_of_text(rows.loc[LAYER_0_TEXT], n)] if LAYER_0_TEXT in rows.index else []
        few = {group: int(rows[f"n_{group.replace('-', '_')}"].iloc[0]) for group in GROUPS}
        if listed := ", ".join(f"{group} ({n})" for group, n in few.items() if n < FEWEST):
            here.append(f"Fewer than {FEWEST} requests, too few to say much: {listed}.")
        said += [f"{name}: {s}" for s in here] if many else [s[0].upper() + s[1:] for s in here]
    return said


def _on_pairs(rows: pd.DataFrame, less: pd.DataFrame, main: str) -> list[str]:
    """The guard on whole pairs, and whether it is above every rival there; nothing where no pair was tested."""
    own, n = rows.loc[main], int(rows.loc[main, "n_pairs"])
    if n < FEWEST:
        return [f"{n} whole pairs, too few to compare on (expected {FEWEST})."] if n else []
    rivals = [name for name in _rivals(main) if name in less.index and name != AT_T_POST.format(main)]
    claims = {r: Claim(r, Estimate.from_row(less.loc[r], "balanced_on_pairs"), n=n, form="+.2f") for r in rivals}
    above = [r for r, claim in claims.items() if claim.verdict == "above"]
    rest = [f"{_rivals(main)[r][0]} {rows.loc[r, 'balanced_on_pairs']:.2f}, {c.finding()}" for r, c in claims.items()]
    p = Claim("", Estimate.from_row(own, "within_pairs"), 0.5, p=float(own["within_pairs_p"]), n=n)
    return [
        f"on {n} pairs of a harmful request and its harmless twin the guard ('{main}') has a balanced accuracy of "
        f"{Estimate.from_row(own, 'balanced_on_pairs'):.2f}, and the harmful one has the higher score in "
        f"{p.finding()} of the pairs.",
        f"on pairs the guard is above {len(above)} of {len(rivals)} rivals by an interval off zero. Their balanced "
        f"accuracy, and the guard's less that: {'; '.join(rest)}.",
    ]


def _of_text(row: pd.Series, n: int) -> str:
    auroc = Claim("", Estimate.from_row(row, "auroc_harmless"), 0.5, n=n)
    return f"layer 0's mean over the text, which knows the words in no order: AUROC {auroc.finding()}."


def _of_main(row: pd.Series, n: int) -> str:
    chose = f"; {row['chose']}" if row["chose"] else ""
    words = {
        "auroc_harmless": "AUROC against harmless requests",
        "auroc_scary": "AUROC against safe but scary ones",
    }
    aurocs = [Claim(text, Estimate.from_row(row, m), 0.5, "above", n=n) for m, text in words.items()]
    aurocs = [claim for claim in aurocs if n < FEWEST or claim.estimate.is_known]  # there may be no scary ones
    alarms = f"{Estimate.from_row(row, 'fpr_at_95_recall'):.2f}" if n >= FEWEST else f"too few (n = {n})"
    return (
        f"the guard ('{row.name}'{chose}) is right on {_share(row, 'harmful')} harmful requests and "
        f"{_share(row, 'harmless')} harmless ones; where the model's behaviour misleads, on "
        f"{_share(row, 'harmful_accepted')} harmful ones that it accepts and on {_share(row, 'harmless_refused')} "
        f"harmless ones that it refuses. {'; '.join(f'{a.text} {a.finding()}' for a in aurocs)}. Share of the harmless "
        f"that it flags where it finds 95 % of the harmful: {alarms}."
    )


def _best(rows: pd.DataFrame) -> str:
    labels = {"auroc_harmless": "AUROC against harmless", "auroc_scary": "against scary ones"}
    parts = []
    for measure, label in (labels | {"balanced_accuracy": "balanced accuracy"}).items():
        if (top := rows[measure].max()) >= 0:
            names = rows.index[rows[measure] > top - 1e-9]
            parts.append(f"{label}: {', '.join(names[:3])}{' and others' if len(names) > 3 else ''} ({top:.2f})")
    return f"best of {len(rows)}, picked on these requests and so a little flattered: {'; '.join(parts)}."


def _rivals(main: str) -> dict[str, tuple[str, str, str]]:
    """What is compared with the guard, with its verbs."""
    return {
        WORDS: ("words alone (TF-IDF)", "do", "are"),
        CHARACTERS: ("characters alone (TF-IDF)", "do", "are"),
        ASKED_CALIBRATED: ("asking the model", "does", "is"),
        AT_T_POST.format(main): ("the same rule at t_post", "does", "is"),
        OWN: ("the model's own refusal", "does", "is"),
    }


def _against(less: pd.Series, rival: str, does: str, are: str, n: int) -> str:
    """Whether a rival does better or worse: only where a paired interval leaves 0 out."""
    labels = {"balanced_accuracy": "balanced accuracy"}
    if less.name != OWN:  # a verdict without degrees
        labels = {"auroc_harmless": "AUROC against harmless", "auroc_scary": "AUROC against scary"} | labels
    claims = [Claim(text, Estimate.from_row(less, m), n=n, form="+.2f") for m, text in labels.items()]
    verdicts = {claim.verdict for claim in claims}
    if verdicts == {"too few"}:
        return f"{rival} against the guard: too few requests (n = {n}; expected {FEWEST} or more)."
    said = {
        (False, False): f" {are} not shown to differ",
        (True, False): f" {does} worse",
        (False, True): f" {does} better",
        (True, True): f" {does} better in one measure and worse in another",
    }["above" in verdicts, "below" in verdicts]
    parts = [f"{claim.estimate:{claim.form}} ({claim.text})" for claim in claims if claim.verdict != "too few"]
    return f"{rival}{said}: the guard less that is {', '.join(parts)}."


def _surface(row: pd.Series, n: int) -> str:
    known = [e for m in ("auroc_harmless", "auroc_scary") if (e := Estimate.from_row(row, m)).value == e.value]
    auroc = max(known, key=lambda estimate: abs(estimate.value - 0.5))
    claim = Claim("layer 0 alone", auroc, null=0.5, n=n)
    if claim.verdict == "too few":
        return claim.sentence()
    if is_confounded(auroc.value):
        return (
            f"layer 0 alone, which knows only the last token, has an AUROC of {claim.finding()}: the classes end "
            "differently and what is read at t_inst is confounded with that."
        )
    ends = "differently, but by little" if claim.is_shown else "alike, as far as the interval tells"
    return f"layer 0 alone has an AUROC of {claim.finding()}: the classes end {ends}."


def _share(row: pd.Series, column: str) -> str:
    n = row[f"n_{column}"]
    return f"{Estimate.from_row(row, column):.0%} of {n}" if n >= FEWEST else f"too few (n = {n})"

"""Tables of a steering experiment: rates with intervals, changes against the unsteered model and the controls. All are
computed from one frame, a row for each arm and request."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from interp.statistics import UNKNOWN, Estimate, mean_estimate, paired_share_change, ratio_estimate, wilson_share

ARM = ["stage", "kind", "arm", "control", "layer", "coefficient"]
REPETITION_MARGIN = 0.1


def perplexity_of(frame: pd.DataFrame) -> Estimate:
    """exp(total nll / total tokens) of the replies, with an interval over replies; NaN without a token."""
    rows = frame[frame["n_tokens"] > 0]
    nats = ratio_estimate(rows["nll"].to_numpy(float), rows["n_tokens"].to_numpy(float))
    return Estimate(*(float(np.exp(number)) for number in nats))


def summarise(outcomes: pd.DataFrame, fluency_factor: float) -> pd.DataFrame:
    """One row for each arm: replies, refusals, the change from the unsteered model, fluency, KL, and a ``note``.

    ``perplexity``: of the replies under the unsteered model; ``perplexity_ratio``: to that of the unsteered replies (to
    the larger one of harmful and harmless requests, since a standard refusal is far more predictable than any help).
    ``repetition``: mean share of repeated 4-grams. ``fluent``: the ratio is at most ``fluency_factor``, and repetition
    at most 0.1 above the unsteered. ``kl``: nats, first token, harmless requests.
    """
    rows = []
    for _, of_stage in outcomes.groupby("stage", sort=False):
        unsteered = {kind: part for kind, part in of_stage[of_stage["arm"] == "unsteered"].groupby("kind", sort=False)}
        judged = {kind: part[part["verdict"] != ""] for kind, part in unsteered.items()}
        base = max((perplexity_of(part).value for part in judged.values()), default=np.nan)
        repeated = max((part["repetition"].mean() for part in judged.values()), default=np.nan)
        for key, part in of_stage.groupby(ARM, sort=False):
            replied = part[part["verdict"] != ""]
            kind = key[ARM.index("kind")]
            refused = _refused(replied)
            before = _refused(judged[kind]).reindex(refused.index)
            perplexity = perplexity_of(replied)
            row = dict(zip(ARM, key, strict=True)) | {"n": len(replied), "refused": int(refused.sum())}
            row["unclear"] = int((replied["verdict"] == "unclear").sum())
            row |= wilson_share(refused).columns("refusal_rate")
            row |= paired_share_change(refused, before).columns("change") | perplexity.columns("perplexity")
            row |= {"perplexity_ratio": perplexity.value / base, "repetition": replied["repetition"].mean()}
            row |= mean_estimate(part["kl"].dropna().to_numpy()).within(0, np.inf).columns("kl")
            rows.append(row | fluency(row, repeated, fluency_factor))
    return pd.DataFrame(rows)


def fluency(row: dict[str, Any], repeated: float, factor: float) -> dict[str, Any]:
    found = []
    if not row["perplexity_ratio"] <= factor:
        ratio = row["perplexity_ratio"]
        found.append("no text" if np.isnan(ratio) else f"perplexity {ratio:.1f} times the unsteered")
    if row["repetition"] > repeated + REPETITION_MARGIN:
        found.append(f"{row['repetition']:.0%} of 4-grams repeated")
    return {"fluent": not found, "note": f"noise: {', '.join(found)}" if found else ""}


def compare(outcomes: pd.DataFrame) -> pd.DataFrame:
    """Each tested arm beside its controls: one row for each arm and ``condition``.

    Conditions: unsteered, direction, random and shuffled (means over their seeds; ``lowest`` and ``highest``: the rates
    of single seeds, all with the arm's own sign). ``change``: against the unsteered model. ``beyond``: the direction's
    rate less this condition's. All differences are paired by request.
    """
    test = outcomes[(outcomes["stage"] == "test") & (outcomes["verdict"] != "")]
    rows = []
    for (kind, arm), part in test[test["arm"] != "unsteered"].groupby(["kind", "arm"], sort=False):
        unsteered = _refused(test[(test["arm"] == "unsteered") & (test["kind"] == kind)])
        direction = _refused(part[part["control"] == ""])
        conditions, seeds = {"unsteered": unsteered, "direction": direction}, {}
        for sort in ("random", "shuffled"):
            some = part[part["control"].str.startswith(sort)]
            if len(some):
                refused = some.assign(r=(some["verdict"] == "refused").astype(float))
                seeds[sort] = refused.pivot(index="id", columns="control", values="r")
                conditions[sort] = seeds[sort].mean(axis=1)
        for name, refused in conditions.items():
            refused = refused.reindex(direction.index).astype(float)
            row = {"kind": kind, "arm": arm, "condition": name, "n": len(refused)}
            row |= wilson_share(refused).columns("refusal_rate")
            rates = seeds[name].mean(axis=0) if name in seeds else pd.Series([np.nan])
            row |= {"lowest": rates.min(), "highest": rates.max()}
            before = unsteered.reindex(direction.index)
            change = UNKNOWN if name == "unsteered" else paired_share_change(refused, before)
            beyond = UNKNOWN if name == "direction" else paired_share_change(direction, refused)
            rows.append(row | change.columns("change") | beyond.columns("beyond"))
    return pd.DataFrame(rows)


def _refused(rows: pd.DataFrame) -> pd.Series:
    return (rows.set_index("id")["verdict"] == "refused").astype(float)


def noise_note(summary: pd.DataFrame) -> str:
    """For the note of a table: which rows are noise."""
    noisy = summary[~summary["fluent"]]
    if noisy.empty:
        return "All texts are fluent by the stated limits."
    which = [
        f"{r.arm}{' ' + r.control if r.control else ''} L{r.layer} x{abs(r.coefficient):g}" for r in noisy.itertuples()
    ]
    listed = ", ".join(which[:12]) + (f" and {len(which) - 12} more" if len(which) > 12 else "")
    return f"Warning: steering turned the text to noise in {len(noisy)} of {len(summary)} arms: {listed}."

"""What traces of edited pairs say, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from interp.statistics import Estimate
from probes.visual_semantics.tracing.roles import CONCEPT, EDITED, LAST, PICTURE
from probes.visual_semantics.tracing.tables import ALL, LEAST_PAIRS, TOO_FEW, is_too_few

NAMES = {"attention": "attention output", "mlp": "MLP output", "residual": "residual stream"}
_FEW_BLOCKS = 12  # fewer cut the depth more coarsely than the paper's ranges
_VERDICTS = {"agrees": "agree", "elsewhere": "lie elsewhere", "undecided": "can't be decided"}
_VERDICTS |= {"no clear peak": "have no clear peak here to compare with"}
_VERDICTS |= {TOO_FEW: f"can't be judged by fewer than {LEAST_PAIRS} pairs"}


def carried(means: pd.DataFrame) -> list[str]:
    """Up to where the edited patches, and from where on the last token, hold more than half of the answer."""
    shares = means[(means["part"] == "residual") & means["share"].notna()]
    said = []
    for role in (EDITED, PICTURE, LAST):
        here = shares[shares["role"] == role].sort_values("layer")
        if here.empty or (role == PICTURE and EDITED in set(shares["role"])):
            continue
        over = here["share"] > 0.5
        layers = here["layer"][over].tolist()
        first = here.iloc[0]
        at = f"{first['share']:.0%} at layer {first['layer']}"
        if not layers:
            said.append(f"{role} never half ({at})")
        elif role == LAST:
            said.append(f"{role} over half from layer {layers[0]} on" if over.iloc[-1] else f"{role} never at the end")
        else:
            said.append(f"{role} over half up to layer {layers[-1]} ({at})")
    n = int(shares["n"].max()) if said else 0
    return [f"In the residual stream, of what the edit takes away (n = {n}): {'; '.join(said)}."] if said else []


def peaks_of_parts(peaks: pd.DataFrame, parts: Sequence[str]) -> list[str]:
    """Where the attention's and the MLP's outputs matter most, over all pairs."""
    sentences, of_all = [], peaks[peaks["level"] == ALL]
    for part in parts:
        if part == "residual":
            continue
        said = []
        for role in (CONCEPT, LAST):
            row = of_all[(of_all["part"] == part) & (of_all["role"] == role)]
            if row.empty or is_too_few(row.iloc[0]):
                continue
            row = row.iloc[0]
            change = f"{Estimate.from_row(row, 'change'):+.3f}"
            where = f"in layer {row['layer']} ({change}, depth {row['depth']:.2f}, n = {row['n']})"
            if not row["is_clear"]:
                where = f"in none shown to differ from no change, or from a control (highest {change}, n = {row['n']})"
            said.append(f"at the {role} {where}")
        if said:
            sentences.append(f"The {NAMES[part]} changes P(gold) most {', '.join(said)}.")
    if any(is_too_few(row) for row in of_all.to_dict("records")):
        sentences.append(
            f"No peak is called clear that fewer than {LEAST_PAIRS} pairs (or controls) stand behind: of so few an "
            "interval is little more than their values."
        )
    return sentences


def beside_claims(claims: pd.DataFrame, n_layers: int) -> list[str]:
    """How many of the paper's claims hold here."""
    if not len(claims):
        return []
    counts = claims["verdict"].value_counts()
    said = ", ".join(f"{n} {_VERDICTS[verdict]}" for verdict, n in counts.items())
    coarse = f" With {n_layers} blocks that says little." if n_layers < _FEW_BLOCKS else ""
    return [
        f"Of {len(claims)} claims of the paper on where parts matter most (LLaVA 1.5 7B, InstructBLIP 7B; "
        f"compared by relative depth): {said}.{coarse}"
    ]


def beside_control(means: pd.DataFrame) -> str:
    """What unrelated pictures do; ``means`` has their columns if they were asked for."""
    if "control" not in means:
        return "No control by unrelated pictures was asked for."
    known = means.dropna(subset=["control"])
    if known.empty:
        return "No pair has an unrelated picture of its size for a control."
    sentence = (
        f"States of an unrelated picture change P(gold) by {known['control'].mean():+.3f} on average over parts, "
        f"layers and roles (at most {known['control'].max():+.3f}; n = {int(known['n_control'].max())})"
    )
    judged = known[known["n_control"] >= LEAST_PAIRS]
    if judged.empty:
        return f"{sentence}; these are too few pairs (under {LEAST_PAIRS}) to say where the right picture's do more."
    clear = sum(Estimate.from_row(row, "beyond_control").side_of(0) > 0 for row in judged.to_dict("records"))
    return f"{sentence}; the right picture's do clearly more in {clear} of {len(judged)} places, each judged by itself."

"""Tables of the harmfulness evaluation that no study makes by itself: conditions side by side, sources, heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from interp.rankings.ranking import HeadRanking
from interp.statistics import Estimate, paired_share_change, wilson_share
from probes.harmfulness.directions.result import HeldOut
from probes.requests.behaviour_result import GROUPS, UNCLEAR, Behaviour, refusal_rate
from probes.requests.requests import Request


def group_counts(behaviour: Behaviour, parts: Mapping[str, Sequence[Request]]) -> pd.DataFrame:
    """How many requests of each part are in each group; all together in the last row."""
    of_id = dict(zip(behaviour.to_frame()["id"], behaviour.to_frame()["group"], strict=True))
    rows = []
    for name, requests in {**parts, "all": behaviour.requests}.items():
        groups = [of_id[r.id] for r in requests]
        rows.append({"part": name, "n": len(groups)} | {g: groups.count(g) for g in (*GROUPS, *UNCLEAR)})
    return pd.DataFrame(rows)


def conditions_table(held_out: Mapping[str, HeldOut]) -> pd.DataFrame:
    """One row for each condition: how many were fitted and tested, the surface controls (the embedding at t_inst,
    words, length, last character), the range over layers 1 to L of the AUROC of harmful against harmless requests by
    harmfulness at t_inst, and its cosine with refusal beside the ceiling (means of layers 1 to L)."""
    rows = []
    for name, held in held_out.items():
        auroc = _harm(held).query("layer > 0")["auroc"]
        words = held.baselines.set_index("baseline")["auroc"]
        row = {"condition": name, "n_fitted": len(held.directions.states), "n_tested": len(held.requests)}
        row |= {"layer0_auroc_of_fit": held.directions.layer0_auroc, "layer0_auroc": held.layer0_auroc}
        row |= {"confounded": held.is_confounded, "words_auroc": words["words (TF-IDF)"]}
        row |= {"characters_auroc": words["characters (TF-IDF)"], "text_auroc": words["layer 0, mean over the text"]}
        row |= {"length_auroc": words["length in words"], "last_character_auroc": words["last character"]}
        row |= {"lowest_auroc": auroc.min(), "highest_auroc": auroc.max()}
        mean = held.directions.agreement.mean
        rows.append(row | {k: mean[k] for k in mean if not k.startswith("ceiling_") and k != "across_halves"})
    return pd.DataFrame(rows)


def layers_table(held_out: Mapping[str, HeldOut], of: str) -> pd.DataFrame:
    """A row for each layer, a column for each condition. ``of``: "auroc" of harmful against harmless requests by
    harmfulness at t_inst, or "cosine" of the two directions, with its ceiling beside it."""
    columns: dict[str, pd.Series] = {}
    for name, held in held_out.items():
        table = (_harm(held) if of == "auroc" else held.directions.cosine()).set_index("layer")
        columns |= {name + end: table[of + end] for end in ("", "_low", "_high")}
        if of == "cosine":
            columns[f"{name}: ceiling"] = table["ceiling"]
    table = pd.DataFrame(columns)
    constant = (table[list(held_out)].iloc[0] == 0.5).all() if of == "auroc" else True
    return table.iloc[int(constant) :].rename_axis("layer").reset_index()  # 0.50 by construction where all end alike


def position_table(found: pd.DataFrame) -> pd.DataFrame:
    """:func:`separation_by_position` by position: the mean AUROC over layers 1 to L, and the best layer's."""
    rows = []
    for (position, token), layers in found.query("layer > 0").groupby(["position", "token"], sort=True):
        best = layers.loc[layers["auroc"].idxmax()]
        row = {"position": position, "token": repr(token), "n": int(best["n"]), "mean_auroc": layers["auroc"].mean()}
        row |= {"best_layer": int(best["layer"]), "auroc": best["auroc"]}
        row |= {"auroc_low": best["auroc_low"], "auroc_high": best["auroc_high"]}
        rows.append(row | Estimate.from_row(best, "words_auroc").columns("words_auroc"))
    return pd.DataFrame(rows)


def position_sentences(found: pd.DataFrame) -> list[str]:
    """Where harmful and harmless requests lie apart most, and what their last token alone gives away."""
    rows = position_table(found)
    first, last, top = rows.iloc[0], rows.iloc[-1], rows.loc[rows["mean_auroc"].idxmax()]
    return [
        f"Harmful against harmless requests of the shipped pairs (n = {first['n']}), mean AUROC over layers 1 to L: "
        f"{first['mean_auroc']:.2f} at t_inst, {last['mean_auroc']:.2f} at t_post; highest {top['mean_auroc']:.2f} at "
        f"position {top['position']} ({top['token']}); words on the same texts "
        f"{Estimate.from_row(first, 'words_auroc'):.2f}."
    ]


def cut_table(whole: Behaviour, cut: Behaviour) -> pd.DataFrame:
    """Refusal rates of the same requests with and without the tokens after them, and the paired change, by kind."""
    rows = []
    for kind in ("harmful", "harmless"):
        these = [i for i, r in enumerate(whole.requests) if r.kind == kind]
        refused = [np.array([b.verdicts[i] == "refused" for i in these]) for b in (whole, cut)]
        unclear = sum(cut.verdicts[i] == "unclear" for i in these)
        change = paired_share_change(refused[1].astype(float), refused[0].astype(float))
        row = {"kind": kind, "n": len(these), "unclear_without": unclear}
        for name, these_refused in zip(("with", "without"), refused, strict=True):
            row |= wilson_share(these_refused).columns(name)
        rows.append(row | change.columns("change"))
    return pd.DataFrame(rows)


def cut_sentences(whole: Behaviour, cut: Behaviour) -> list[str]:
    """The same in words, beside the paper's claim."""
    said = []
    for row in cut_table(whole, cut).to_dict("records"):
        unclear = ""
        if row["unclear_without"] > row["n"] / 2:
            unclear = (
                f" {row['unclear_without']} of {row['n']} replies are unclear: the model ends the turn or writes on in "
                "the user's place, so this says nothing of refusing."
            )
        said.append(
            f"Without the tokens after the request {row['kind']} ones are refused in {row['without']:.0%} of "
            f"{row['n']} cases, with them in {row['with']:.0%} (change in points "
            f"{Estimate.from_row(row, 'change').times(100):+.0f}; the paper: fewer for harmful ones).{unclear}"
        )
    return said


def _harm(held: HeldOut) -> pd.DataFrame:
    return held.separations.query(
        "direction == 'harmfulness' and position == 't_inst' and classes == 'harmful from harmless'"
    )


def shares_by_source(frame: pd.DataFrame, columns: Mapping[str, str]) -> pd.DataFrame:
    """For each kind and source the share of requests whose number in a column is at least 0, with Wilson's interval.
    ``frame``: kind, source and the columns, whose keys are here and whose values name the result."""
    rows = []
    for (kind, source), part in frame.groupby(["kind", "source"], sort=False):
        row = {"kind": kind, "source": source, "n": len(part)}
        for column, name in columns.items():
            share = refusal_rate(part[column] >= 0).values()
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), share, strict=True))
        rows.append(row)
    return pd.DataFrame(rows)


def heads_table(ranking: HeadRanking, top: int = 12) -> pd.DataFrame:
    """The heads that write most, with what is known of each; intervals beside their values."""
    frame = ranking.top(top).rename(columns={"score": "direct", "ci_low": "direct_low", "ci_high": "direct_high"})
    frame = frame.rename(columns=lambda c: c.replace("_ci_low", "_low").replace("_ci_high", "_high"))
    return frame.drop(columns=["layer", "head", "se"])


def heads_sentences(ranking: HeadRanking, which: str) -> list[str]:
    """How many heads write the direction above the noise, what the first is, and whether the order is reliable."""
    frame, about = ranking.to_frame(), ranking.provenance
    best, floor, total = frame.iloc[0], about["noise_floor"], about["contrast"]
    effect = np.corrcoef(frame["score"], frame["effect"])[0, 1]
    return [
        f"{which}, read at layer {about['read']['layer']}: {int((frame['q'] < 0.05).sum())} of {len(frame)} heads "
        f"differ between harmful and harmless requests (q < 0.05), {floor['heads_above_both']} write more of it than "
        "any head writes along the random and the shuffled direction.",
        f"{which}: {best['label']} writes most, {Estimate.from_row(best, 'score', ('ci_low', 'ci_high')):+.3f} "
        f"of a difference of {Estimate.from_row(total, 'total', ('total_ci_low', 'total_ci_high')):+.3f} that "
        f"heads ({total['heads']:+.3f}) and MLPs ({total['mlps']:+.3f}) write; zeroing it takes "
        f"{Estimate.from_row(best, 'effect', ('effect_ci_low', 'effect_ci_high')):+.3f}.",
        f"{which}: over all heads what is written and the effect of zeroing correlate by {effect:.2f}; split-half "
        f"reliability of the order {ranking.reliability.spearman_brown:.2f} (n = {ranking.n_examples} pairs).",
    ]

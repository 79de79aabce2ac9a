"""What editing sets of heads did to yes/no answers, question by question; tables with intervals and chance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from interp.figures import head_label
from interp.reports import Result
from interp.reports.kept_tables import made_once
from interp.statistics import mean_interval
from probes.heads import Case, permutation_p, spearman_over_heads

OUTCOMES = {
    "nb": "negative bias",
    "accuracy": "accuracy",
    "margin": "mean margin (log odds of the negative answer)",
}


@dataclass(frozen=True, eq=False, repr=False)
class CausalTest(Result, report="probes.negative_bias.causal_report"):
    """What editing sets of heads did to yes/no answers, question by question.

    ``margins`` [example, case] and ``clean`` [example]: log P(negative) - log P(positive) at the answer, in logits,
    above 0 for No. ``effects`` [example, layer, head]: what a single head adds to it (clean minus zeroed at the
    answer). ``scores``: mean of each measure in the ranking, [layer, head]. ``groups``: questions of one passage or
    one pair, which are resampled together. The tables are computed at first use and kept.
    """

    cases: tuple[Case, ...]
    margins: Float[np.ndarray, "example case"]
    clean: Float[np.ndarray, " example"]
    gold_yes: Bool[np.ndarray, " example"]
    groups: tuple[str, ...]
    effects: Float[np.ndarray, "example layer head"]
    scores: Mapping[str, Float[np.ndarray, "layer head"]]
    provenance: Mapping[str, Any]

    @made_once
    def to_frame(self) -> pd.DataFrame:
        """One row for each measure (``by``), ``edit``, ``positions``, ``k`` and ``set``: top, bottom and random.

        ``delta_nb``, ``delta_accuracy`` and ``delta_margin``: edited minus unedited, of NB = P(No | gold Yes) -
        P(Yes | gold No), of accuracy, and of the mean margin (logits). ``*_low``, ``*_high``: for top and bottom the
        95 % interval over questions (paired with the unedited run); for random the 2.5 and 97.5
        percentiles of the ``n_random`` sets. ``*_p_random`` of the top: (1 + c) / (1 + n_random), where c random sets
        change it at least as much, either way. The bottom stands in other layers: it has no p.
        """
        edited, clean = outcomes_of(self.margins, self.gold_yes), outcomes_of(self.clean[:, None], self.gold_yes)
        change = {name: edited[name] - clean[name] for name in OUTCOMES}
        mean = {name: change[name].mean(0) for name in OUTCOMES}
        single = [i for i, case in enumerate(self.cases) if case.set != "random"]
        intervals = {name: mean_interval(change[name][:, single], self.groups) for name in OUTCOMES}
        members: dict[tuple, dict[str, list[int]]] = {}
        for i, c in enumerate(self.cases):
            sets = members.setdefault((c.by, c.edit, c.positions, c.k), {"top": [], "bottom": [], "random": []})
            sets[c.set].append(i)
        rows = []
        for key, sets in members.items():
            for kind, indices in sets.items():
                row = dict(zip(("by", "edit", "positions", "k"), key, strict=True))
                row |= {"set": kind, "n_random": len(sets["random"])}
                for name in OUTCOMES:
                    changes, p = mean[name][indices], np.nan
                    if kind == "random":
                        low, high = np.percentile(changes, [2.5, 97.5]) if indices else (np.nan, np.nan)
                    else:
                        low, high = (end[single.index(indices[0])] for end in intervals[name])
                    if kind == "top":
                        p = permutation_p(changes[0], mean[name][sets["random"]])
                    row[f"delta_{name}"] = changes.mean() if indices else np.nan
                    row |= {f"delta_{name}_low": low, f"delta_{name}_high": high, f"delta_{name}_p_random": p}
                rows.append(row)
        return pd.DataFrame(rows)

    def baseline(self) -> pd.DataFrame:
        """The unedited model on these questions: outcome, value, ci_low, ci_high, n, n_yes (gold Yes), n_groups."""
        outcomes = outcomes_of(self.clean[:, None], self.gold_yes)
        rows = []
        for name, meaning in OUTCOMES.items():
            low, high = mean_interval(outcomes[name], self.groups)
            row = {"outcome": meaning, "value": outcomes[name].mean(), "ci_low": low[0], "ci_high": high[0]}
            rows.append(
                row | {"n": len(self.clean), "n_yes": int(self.gold_yes.sum()), "n_groups": len({*self.groups})}
            )
        return pd.DataFrame(rows)

    @made_once
    def correlations(self) -> pd.DataFrame:
        """Does the score of a head predict what the head does? Spearman's correlation over heads between each measure
        (mean over the ranking's questions) and the head's total effect (mean over these).

        ``relation``: "sign and size" of both, or "size alone" (absolute values). A measure "a minus b" is the
        difference of two correlations. ``ci_low``, ``ci_high``: 95 % bootstrap intervals, in which whole layers are
        drawn (heads of a layer share depth and keys), the same ones for both measures of a difference. They speak of
        heads like these, not of other questions.
        """
        effect = self.effects.astype(np.float64).mean(0)
        rows = []
        for relation, of in (("sign and size", lambda a: a), ("size alone", np.abs)):
            found = spearman_over_heads({by: of(score) for by, score in self.scores.items()}, of(effect))
            rows += [{"relation": relation, **row, "n_heads": effect.size} for row in found]
        return pd.DataFrame(rows)

    def heads(self) -> pd.DataFrame:
        """One row for each head: its scores, and its total effect with the 95 % interval over questions."""
        effects = self.effects.astype(np.float64).reshape(len(self.effects), -1)
        low, high = mean_interval(effects, self.groups)
        layer, head = (index.ravel() for index in np.indices(self.effects.shape[1:]))
        label = [head_label(*pair) for pair in zip(layer, head, strict=True)]
        columns = {"layer": layer, "head": head, "label": label} | {by: s.ravel() for by, s in self.scores.items()}
        columns |= {"effect": effects.mean(0), "effect_low": low, "effect_high": high}
        frame = pd.DataFrame(columns).sort_values(next(iter(self.scores)), ascending=False, kind="stable")
        return frame.reset_index(drop=True)

    def sets(self) -> pd.DataFrame:
        """Which heads each top and bottom set holds, and how many random sets each top is compared with."""
        rows = {}
        for case in self.cases:
            row = rows.setdefault((case.by, case.positions, case.k), {"n_random": 0, "random_that_share": 0})
            if case.set != "random":
                row[case.set] = ", ".join(head_label(*head) for head in case.heads)
                row[f"{case.set}_heads"] = set(case.heads)
            elif case.edit == self.cases[0].edit:
                row["n_random"] += 1
                row["random_that_share"] += bool(row["top_heads"] & set(case.heads))
        columns = ["top", "bottom", "n_random", "random_that_share"]
        return pd.DataFrame(
            [{"by": by, "positions": p, "k": k} | {c: row[c] for c in columns} for (by, p, k), row in rows.items()]
        )


def outcomes_of(
    margin: Float[np.ndarray, "example case"], gold_yes: Bool[np.ndarray, " example"]
) -> dict[str, np.ndarray]:
    """Each outcome as contributions of examples, [example, case], whose mean is the outcome.

    NB is the difference of two class means. Its contribution is the example's own error over the share of its class,
    minus (the class's mean minus NB): a draw with more questions of one class then does not move NB, as if the
    bootstrap drew within the classes.
    """
    says_no = margin >= 0
    nb = np.zeros(margin.shape)
    wrong = np.where(gold_yes[:, None], says_no, ~says_no)
    for sign, members in ((1, gold_yes), (-1, ~gold_yes)):
        rate = wrong[members].mean(0)
        nb[members] += sign * (wrong[members] - rate) / members.mean()
        nb += sign * rate
    return {"nb": nb, "accuracy": ~wrong * 1.0, "margin": margin.astype(np.float64)}

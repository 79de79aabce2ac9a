"""Does a threshold travel? Guards, and rivals that read texts, fitted on one set of requests and judged on others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.door import public
from interp.models import Model
from interp.statistics import Estimate, auroc_estimate, pairs_of, wilson_share, within_pairs
from probes.latent_guard.classifier import LatentGuard, harmful
from probes.latent_guard.fitted_model import describe_fitted
from probes.latent_guard.measures import half_sum
from probes.latent_guard.rules import Rule, best_threshold, folds_of
from probes.requests import TEXT_CLASSIFIERS, RequestStates, require_disjoint

HERE = "(across folds)"


@public
def threshold_transfer(
    model: Model,
    sources: Mapping[str, RequestStates],
    rules: Sequence[Rule] = ("whitened", "probe", "paper"),
    *,
    position: str = "t_inst",
    n_folds: int = 5,
    seed: int = 0,
) -> pd.DataFrame:
    """Every rule, words and characters, fitted on each source with its threshold, and judged on every other; on its own
    source across folds.

    Args:
        model: whose states these are.
        sources: states of harmful and harmless requests by the name of the data; the sources share no request.
        rules: of the guard.
        position: "t_inst" or "t_post".
        n_folds: within a source.
        seed: of the folds.

    Returns a row for each of fitted_on, tested_on and guard: sensitivity and specificity (the shares of harmful and of
    harmless requests judged rightly), balanced_accuracy, auroc (a ranking: no threshold), each with its interval,
    within_pairs where there are pairs, n_harmful, n_harmless, and ``lost``: the balanced accuracy of the same guard
    fitted in place (across folds) less this one, in points.

    Raises:
        ValueError: sources that share a request.

    Cost: no pass. Misleads: sources differ in more than where their thresholds lie; where words alone tell a source's
    classes apart, a high number there shows nothing of harm.
    """
    names = list(sources)
    for i, name in enumerate(names):
        for other in names[i + 1 :]:
            require_disjoint(sources[name].requests, sources[other].requests)
    described, rows = describe_fitted(model), []
    for fitted_on in names:
        known = sources[fitted_on]
        positive = harmful(known.requests)
        for guard in (*rules, *TEXT_CLASSIFIERS):
            across = np.full(len(known), np.nan)
            for inside, outside in folds_of(known.requests, positive, n_folds, seed):
                across[outside] = _decisions(
                    model, guard, known.select(inside), [known.select(outside)], position, described
                )[0]
            judged = {fitted_on: across}
            others = [name for name in names if name != fitted_on]
            judged |= zip(
                others, _decisions(model, guard, known, [sources[n] for n in others], position, described), strict=True
            )
            for tested_on, decisions in judged.items():
                row = {
                    "fitted_on": fitted_on,
                    "tested_on": tested_on,
                    "guard": guard,
                    "across_folds": tested_on == fitted_on,
                }
                rows.append(row | _measured(decisions, sources[tested_on]))
    table = pd.DataFrame(rows)
    place = table[table["across_folds"]].set_index(["tested_on", "guard"])["balanced_accuracy"]
    in_place = [place[row.tested_on, row.guard] for row in table.itertuples()]
    return table.assign(lost=100 * (np.array(in_place) - table["balanced_accuracy"]))


def transfer_sentences(table: pd.DataFrame, main: str) -> list[str]:
    """Both halves of each pair of sources, the guard and what it loses beside the best rival that reads the text."""
    said = []
    for (fitted_on, tested_on), part in table[~table["across_folds"]].groupby(["fitted_on", "tested_on"], sort=False):
        rows = part.set_index("guard")
        own, words = rows.loc[main], rows.loc[list(TEXT_CLASSIFIERS)]["balanced_accuracy"]
        said.append(
            f"Fitted on {fitted_on}, tested on {tested_on}: '{main}' is right on "
            f"{Estimate.from_row(own, 'sensitivity'):.0%} of {own['n_harmful']} harmful and "
            f"{Estimate.from_row(own, 'specificity'):.0%} of {own['n_harmless']} harmless requests; balanced accuracy "
            f"{Estimate.from_row(own, 'balanced_accuracy'):.2f}, {abs(own['lost']):.0f} points "
            f"{'below' if own['lost'] >= 0 else 'above'} the same rule fitted in place; {words.idxmax()} "
            f"{words.max():.2f}."
        )
    return said


def _decisions(
    model: Model,
    guard: str,
    fitted: RequestStates,
    tested: Sequence[RequestStates],
    position: str,
    described: Mapping[str, Any],
) -> list[Float[np.ndarray, " example"]]:
    """At least 0: harmful."""
    if guard not in TEXT_CLASSIFIERS:
        made = LatentGuard(model, guard, position).fit_states(fitted, described=described)
        return [made.decision_states(states) for states in tested]
    make, positive = TEXT_CLASSIFIERS[guard], harmful(fitted.requests)
    texts = np.array([r.text for r in fitted.requests], dtype=object)
    scores = np.full(len(texts), np.nan)
    for inside, outside in folds_of(fitted.requests, positive, 5, 0):
        scores[outside] = make().fit(texts[inside], positive[inside]).decision_function(texts[outside])
    learned, threshold = make().fit(texts, positive), best_threshold(scores, positive)
    return [learned.decision_function([r.text for r in s.requests]) - threshold for s in tested]


def _measured(decisions: Float[np.ndarray, " example"], states: RequestStates) -> dict[str, Any]:
    positive, groups = harmful(states.requests), [r.group for r in states.requests]
    pairs = np.array(groups)
    right = (decisions >= 0) == positive
    found, passed = (wilson_share(right[side], groups=pairs[side].tolist()) for side in (positive, ~positive))
    row: dict[str, Any] = found.columns("sensitivity") | passed.columns("specificity")
    row |= half_sum(found, passed).columns("balanced_accuracy")
    row |= auroc_estimate(decisions, positive, groups).columns("auroc")
    if len(pairs_of(positive, groups)):
        row |= within_pairs(decisions, positive, groups).share.columns("within_pairs")
    return row | {"n_harmful": int(positive.sum()), "n_harmless": int((~positive).sum())}

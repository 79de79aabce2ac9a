"""How well numbers, and how well texts alone, tell two classes of requests apart. Knows no model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline

from interp.door import public
from interp.statistics import auroc, auroc_estimate, auroc_interval, within_pairs
from probes.requests.requests import Request


def separation(
    scores: Float[np.ndarray, "example layer"],
    positive: Bool[np.ndarray, " example"],
    groups: Sequence[str] | None = None,
) -> pd.DataFrame:
    """How well a score tells two classes apart at each layer: columns layer, within_pairs with its interval, sign test
    and number of pairs (:func:`interp.statistics.within_pairs`; NaN where ``groups`` has no pair of both classes),
    auroc, auroc_low, auroc_high, n.

    0.5: not at all; below: the other way round. Intervals count ``groups`` (pairs), not examples.

    Raises:
        ValueError: one class only, and scores that are not finite.
    """
    require_both(positive)
    if not np.isfinite(scores).all():
        raise ValueError("some scores are not finite; expected numbers (0 for all where there is no direction).")
    low, high = auroc_interval(scores, positive, groups)
    paired = groups if groups is not None else range(len(scores))
    of_pairs = pd.DataFrame([within_pairs(column, positive, paired).columns("within_pairs") for column in scores.T])
    of_pairs.insert(0, "layer", np.arange(scores.shape[1]))
    return of_pairs.assign(auroc=auroc(scores, positive), auroc_low=low, auroc_high=high, n=len(scores))


def embedding_auroc(
    embedded: Float[np.ndarray, "example d_model"], positive: Bool[np.ndarray, " example"], groups: Sequence[str]
) -> float:
    """How well the embedding of the last token alone tells the classes apart: the control for all that is read there.

    5-fold cross-validated AUROC of the projection on the difference of class means, ``groups`` (pairs) kept together;
    0.5 where all end in the same token, and where it came out below. NaN for fewer than 2 of a class.
    """
    n_folds = min(5, int(positive.sum()), int((~positive).sum()))
    if n_folds < 2:
        return float("nan")
    scores = np.zeros(len(embedded))
    for fit, test in StratifiedGroupKFold(n_folds, shuffle=True, random_state=0).split(embedded, positive, groups):
        if 0 < positive[fit].sum() < len(fit):
            above, below = (embedded[fit][mask].mean(0, dtype=np.float64) for mask in (positive[fit], ~positive[fit]))
            length = np.linalg.norm(above - below)
            scores[test] = (embedded[test] - (above + below) / 2) @ (above - below) / (length or 1.0)
    return max(0.5, float(auroc(scores, positive)))


@public
def surface_baselines(
    requests: Sequence[Request],
    positive: Bool[np.ndarray, " example"],
    fitted: Sequence[Request] = (),
    fitted_positive: Bool[np.ndarray, " fitted"] | None = None,
    embedded: tuple[Float[np.ndarray, "example d_model"], Float[np.ndarray, "fitted d_model"]] | None = None,
) -> pd.DataFrame:
    """What the text alone tells, without the model's layers: how well the length in words, the last character, words
    and characters (TF-IDF and logistic regression) and, with ``embedded``, layer 0's mean over the text (difference of
    class means) tell two classes apart. Within pairs, and as AUROC, each with its interval; n and n_fitted.

    Args:
        requests: those to tell apart.
        positive: whether each is of the first class.
        fitted: what is fitted on, so that a probe and its rival learn from the same texts, and from as many. Without
            any: the requests themselves, in 5 folds that keep pairs together (``embedded`` must then be left out).
        fitted_positive: the class of each of these.
        embedded: :attr:`RequestStates.embedded` of both lists, as arrays.

    Raises:
        ValueError: fewer than 2 of a class.

    The length is read in the better of its two directions.

    Cost: no pass of a model; seconds.
    Misleads: it knows few surfaces; a high number says that a text gives itself away, a low one not that it does not.
    Source: ours.
    """
    require_both(positive)
    texts, groups = [r.text for r in requests], [r.group for r in requests]
    length = np.array([float(len(text.split())) for text in texts])
    scores = {"length in words": length if auroc(length, positive) >= 0.5 else -length}
    for name, make in (("last character", last_character_classifier), *TEXT_CLASSIFIERS.items()):
        if fitted_positive is not None:
            learned = make().fit([r.text for r in fitted], fitted_positive)
            scores[name] = learned.predict_proba(texts)[:, 1]
        else:
            scores[name] = _crossed(make(), texts, positive, groups)
    if embedded is not None:
        own, known = embedded
        of_class = np.asarray(fitted_positive, dtype=bool)
        direction = known[of_class].mean(0, dtype=np.float64) - known[~of_class].mean(0, dtype=np.float64)
        scores["layer 0, mean over the text"] = own.astype(np.float64) @ direction
    n_fitted = len(fitted) if fitted_positive is not None else len(requests)
    rows = [
        {"baseline": name}
        | within_pairs(score, positive, groups).columns("within_pairs")
        | auroc_estimate(score, positive, groups).columns("auroc")
        for name, score in scores.items()
    ]
    return pd.DataFrame(rows).assign(n=len(texts), n_fitted=n_fitted)


def _crossed(model: Any, texts: list[str], positive: np.ndarray, groups: list[str]) -> Float[np.ndarray, " example"]:
    n_folds = min(5, int(positive.sum()), int((~positive).sum()))
    if n_folds < 2:
        raise ValueError(f"{int(positive.sum())} of {len(texts)} requests are positive; expected 2 of each class.")
    folds = StratifiedGroupKFold(n_folds, shuffle=True, random_state=0)
    return cross_val_predict(model, texts, positive, cv=folds, groups=groups, method="predict_proba")[:, 1]


def last_character_classifier():
    """Logistic regression on the last character alone."""
    last = TfidfVectorizer(analyzer=_last_character, use_idf=False)
    return make_pipeline(last, LogisticRegression())


def _last_character(text: str) -> list[str]:
    return [text.strip()[-1]]


def words_classifier():
    """The rival of every probe: logistic regression on TF-IDF of words and pairs of words (scikit-learn)."""
    return make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(max_iter=1000))


def words_of(fitted: Sequence[Request], asked: Sequence[Request]) -> Float[np.ndarray, " example"]:
    """What the words of requests tell, by :func:`words_classifier` learned from the texts of others of both kinds.

    Returns:
        [example], in log odds: higher for harmful ones. NaN where the texts of the others were withheld.
    """
    if any(r.is_withheld for r in fitted):
        return np.full(len(asked), np.nan)
    rival = words_classifier().fit([r.text for r in fitted], [r.is_harmful for r in fitted])
    return rival.decision_function([r.text for r in asked]).astype(float)


def characters_classifier():
    """A small sentence classifier: logistic regression on TF-IDF of 2 to 5 characters within words (scikit-learn). It
    knows parts of words that it has not seen whole."""
    return make_pipeline(
        TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True),
        LogisticRegression(max_iter=1000, C=10),
    )


TEXT_CLASSIFIERS = {"words (TF-IDF)": words_classifier, "characters (TF-IDF)": characters_classifier}
"""The rivals of every probe: what is learned from the texts alone."""


def require_both(positive: Bool[np.ndarray, " example"]) -> None:
    """Raise ``ValueError`` unless some are positive and some are not."""
    if not 0 < positive.sum() < len(positive):
        raise ValueError(f"{int(positive.sum())} of {len(positive)} requests are of the first class; expected both.")

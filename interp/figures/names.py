"""What people read in the place of column names, which are for files."""

from __future__ import annotations

_NAMES = {
    "label": "head",
    "ci_low": "from (95 %)",
    "ci_high": "to (95 %)",
    "q": "q (all heads)",
    "se": "standard error",
    "keeps_sign": "keep their sign",
    "changes_sign": "change it",
    "sign_flips": "opposite sign",
    "overlap_expected": "overlap by chance",
    "spearman_brown": "reliability",
    "option_mass": "probability of the options",
    "nas_swapped_order": "NAS, options swapped",
    "log_odds_no": "log odds of No",
    "p_value": "p",
}
_WORDS = {
    "nas": "NAS",
    "nasa": "NASA",
    "nb": "NB",
    "auroc": "AUROC",
    "mlp": "MLP",
    "f1": "F1",
    "idk": "“I don’t know”",
    "kl": "KL",
    "ood": "out of distribution",
    "id": "id",
}


def displayed(name: str) -> str:
    """A column, or a measure, as it is printed: ``nas_swapped_order`` is "NAS, options swapped"."""
    return _NAMES.get(name) or " ".join(_WORDS.get(word, word) for word in name.split("_"))

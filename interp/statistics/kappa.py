"""Agreement of two judges beyond chance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np

from interp.statistics.estimates import UNKNOWN, Estimate
from interp.statistics.shares import wilson_share


def cohen_kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> Estimate:
    """Cohen's kappa of two judges' labels of the same examples, with a 95 % interval: (p - c) / (1 - c) for the share p
    on which they agree and c, the share on which two judges with their frequencies of labels would by chance.

    The interval is Wilson's of p, with c as it was found (tests hold its coverage): where all agree it keeps a width,
    which the usual large-sample one does not.

    Args:
        first: a label of each example.
        second: the other judge's, in the same order.

    Returns:
        1 for the same labels, 0 for chance, below it for less; NaN for no examples, and where both gave one and the
        same label throughout, which chance does too.

    Raises:
        ValueError: unlike numbers of labels.

    Misleads: where one label is rare kappa is low though the judges nearly always agree: read p beside it.
    Source: Cohen (1960), Educ. Psychol. Meas. 20; the interval is ours.

    >>> f"{cohen_kappa(['a'] * 8 + ['b'] * 8, ['a'] * 8 + ['b'] * 6 + ['a'] * 2):.2f}"
    '0.75 [0.28, 0.93]'
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} labels were given; expected those of the same examples.")
    n = len(first)
    if not n:
        return UNKNOWN
    counts = Counter(first), Counter(second)
    chance = sum(counts[0][label] * counts[1][label] for label in counts[0]) / n**2
    if chance > 1 - 1e-12:
        return UNKNOWN
    agreed = wilson_share(np.array([a == b for a, b in zip(first, second, strict=True)]))
    return Estimate(*((share - chance) / (1 - chance) for share in agreed))

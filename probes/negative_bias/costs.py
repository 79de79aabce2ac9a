"""What the rankings of this room cost, as work in plain passes; tests hold it to what is counted."""

from __future__ import annotations

from interp.machine import Work

BESIDE = 7 / 6
"""A ranking by effect, with what is said beside it: a sixth of its scans."""
CONFIRMED = 0.25
"""The share of heads that a screen leaves to be measured exactly, about (`tests/benchmarks/screening.md`)."""
_ONCE, _CHECK, _CHECK_EVERYWHERE = 28, 15, 20
"""Once: the fingerprint, which prompts may share a pass, kinds of heads, views; and a check of three prompts."""


def ranking_work(n: int, effects: bool = True, tokens: float = 60.0, what: str = "") -> Work:
    """Of :func:`rank_heads`: NAS in both orders, what the answers hold, direct effects, each a pass; and one scan."""
    scans = BESIDE if effects else 0.0
    return Work(what, n, 4.0 if effects else 3.0, scans, _ONCE + _CHECK * effects, tokens)


def effect_work(
    n: int,
    tokens: float = 60.0,
    last: float | None = 1,
    ablation: str = "zero",
    screen: str | None = None,
    what: str = "",
) -> Work:
    """Of :func:`rank_by_effect`: a scan in each order of the options, what the answers hold, direct effects at the
    answer, two reads of a mean. ``last``: the positions, None for all.

    With a ``screen``, both orders are screened (3 passes each by a gradient; half a scan each in bfloat16, in time) and
    then scanned for about a quarter of the heads, which no one knows before; nothing is said beside.
    """
    everywhere = last is None or last >= tokens
    passes = 1.0 + (last == 1) + 2 * (ablation == "mean")
    scans = 2 * BESIDE
    if screen is not None:
        passes += 2 * (3 if screen == "gradient" else 0) + 1.5 * (not everywhere)
        scans = 2 * (CONFIRMED + 0.5 * (screen == "bfloat16"))
    once = _ONCE + 2 * (_CHECK_EVERYWHERE if everywhere else _CHECK)
    return Work(what, n, passes, scans, once, tokens, None if everywhere else last)

"""A claim says what its interval says, and never more."""

import numpy as np
import pytest

from interp.statistics import ALPHA, FEWEST_DRAWS, UNKNOWN, Claim, Estimate

ABOVE, BELOW, WIDE = Estimate(0.3, 0.1, 0.5), Estimate(-0.3, -0.5, -0.1), Estimate(0.1, -0.1, 0.3)


@pytest.mark.parametrize(
    ("estimate", "verdict"), [(ABOVE, "above"), (BELOW, "below"), (WIDE, "not shown to differ"), (UNKNOWN, "too few")]
)
def test_the_verdict_is_where_the_interval_lies(estimate, verdict):
    assert Claim("a change", estimate, n=40).verdict == verdict
    mirrored = Claim("a change", Estimate(-estimate.value, -estimate.high, -estimate.low), n=40).verdict
    assert mirrored == {"above": "below", "below": "above"}.get(verdict, verdict)


def test_an_interval_that_touches_the_null_shows_nothing():
    assert Claim("a change", Estimate(0.2, 0.0, 0.4), n=40).verdict == "not shown to differ"


def test_a_test_must_agree_with_the_interval():
    assert Claim("a change", ABOVE, p=0.2, n=40).verdict == "not shown to differ"
    assert Claim("a change", ABOVE, p=0.05, n=40).verdict == "above"
    assert "p = 0.200" in Claim("a change", ABOVE, p=0.2, n=40).sentence()


def test_too_few_say_nothing_and_no_number_is_read():
    claim = Claim("a change", ABOVE, n=9)
    assert claim.verdict == "too few" and not claim.is_shown
    assert claim.sentence() == "a change: too few (n = 9; expected 10 or more)."
    assert "0.3" not in claim.sentence()
    assert Claim("a change", ABOVE, n=9, fewest=5).verdict == "above"


def test_below_19_draws_there_is_no_verdict():
    """18 draws none of which does as much give p = 1 / 19, above 0.05, whatever the interval; 19 can show something."""
    few, enough = (Claim("a change", ABOVE, p=1 / (1 + n), n=40, draws=n) for n in (FEWEST_DRAWS - 1, FEWEST_DRAWS))
    assert few.verdict == "too few draws" and not few.is_shown and enough.is_shown
    assert "too few draws (18; expected 19 or more)" in few.sentence()
    assert 1 / (1 + FEWEST_DRAWS) <= ALPHA < 1 / FEWEST_DRAWS


def test_sides():
    assert Claim("a change", ABOVE, side="above", n=40).is_shown
    other = Claim("a change", ABOVE, side="below", n=40)
    assert other.is_reversed and not other.is_shown
    none = Claim("a change", WIDE, side="above", n=40)
    assert not none.is_shown and not none.is_reversed
    assert Claim("a change", BELOW, n=40).is_shown


def test_sentences():
    assert Claim("a change", ABOVE, n=40).sentence() == "a change: 0.30 [0.10, 0.50], above 0.00 (n = 40)."
    sentence = Claim("a rate", Estimate(0.5, 0.3, 0.7), null=0.5, n=40, form=".0%", against="chance").sentence()
    assert sentence == "a rate: 50% [30%, 70%], not shown to differ from chance (n = 40)."


def test_an_estimate_is_written_with_its_interval_and_no_nan():
    assert f"{ABOVE:+.1f}" == "+0.3 [+0.1, +0.5]"
    assert f"{UNKNOWN:.2f}" == "not known" and f"{Estimate(1.0, np.nan, np.nan):.1f}" == "1.0"
    row = {"x": 0.3, "x_low": 0.1, "x_high": 0.5, "ci_low": 0.2, "ci_high": 0.4}
    assert Estimate.from_row(row, "x") == ABOVE and Estimate.from_row(ABOVE.columns("x"), "x") == ABOVE
    assert Estimate.from_row(row, "x", ("ci_low", "ci_high")) == (0.3, 0.2, 0.4)

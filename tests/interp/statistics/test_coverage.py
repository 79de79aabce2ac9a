"""The intervals cover: a small version of tests/benchmarks/coverage.py, whose page has every number."""

import numpy as np
import pytest

from interp.statistics import auroc_interval, mean_interval, wilson_share
from tests.benchmarks import coverage

RUNS = 4000  # of a mean: a coverage is known to 0.35 points


@pytest.mark.parametrize("n", coverage.SIZES)
@pytest.mark.parametrize("name", list(coverage.MEANS))
def test_intervals_of_means_cover_skewed_data(name, n):
    x, truth = coverage.MEANS[name](np.random.default_rng(5), n, RUNS)
    found = coverage.covered(*mean_interval(x), truth)
    assert 0.93 <= found["covers"] <= 0.985 and found["runs"] == RUNS


@pytest.mark.parametrize("n", (60, 200))
@pytest.mark.parametrize("name", ("normal", "lognormal"))
def test_intervals_of_means_of_groups_cover(name, n):
    x, group = coverage.clustered(np.random.default_rng(6), n, RUNS, name)
    truth = float(np.exp(0.5)) if name == "lognormal" else 0.0
    assert 0.93 <= coverage.covered(*mean_interval(x, group), truth)["covers"] <= 0.97
    assert coverage.covered(*mean_interval(x), truth)["covers"] < 0.9  # as if examples were independent


@pytest.mark.parametrize("n", coverage.SIZES)
def test_intervals_of_rare_shares_cover(n):
    found = [wilson_share(x) for x in np.random.default_rng(7).random((1500, n)) < coverage.RARE]
    assert 0.91 <= coverage.of_estimates(found, coverage.RARE)["covers"] <= 0.985


def test_intervals_of_aurocs_cover_at_the_edge_too():
    positive = np.arange(60) < 30
    for shift, truth in ((0.0, 0.5), (1.812, 0.9)):
        x = np.random.default_rng(8).normal(size=(60, 2000)) + shift * positive[:, None]
        assert 0.93 <= coverage.covered(*auroc_interval(x, positive), truth)["covers"] <= 0.975


@pytest.mark.parametrize("rows", [coverage.rows_of_shares, coverage.rows_of_aurocs, coverage.rows_of_bootstrap])
def test_every_line_of_the_page_is_made(rows):
    for row in rows(40):
        assert 0.8 <= row["covers"] <= 1 and row["width"] > 0, row

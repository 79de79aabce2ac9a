"""Sets of heads: laws of the curves, known circuits, what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from interp.circuits import faithfulness, minimal_set, only_together, weigh_set
from interp.circuits.faithful import _least
from interp.locating import locate
from probes.known_answers import ALTERATIONS, load_known
from tests.interp.locating.test_locate import PAIRS


@pytest.fixture(scope="module")
def hops():
    known = load_known("two_hops")
    return known, known.pairs(8)


def test_the_curve_of_a_known_circuit(hops):
    known, pairs = hops
    right = faithfulness(known.model, pairs, list(known.heads.values()))
    wrong = faithfulness(known.model, pairs, locate(known.model, pairs, "random", check=0))
    frame = right.to_frame().set_index("k")
    assert frame.kept[3] == pytest.approx(1, abs=1e-3) and frame.removed[3] == pytest.approx(0, abs=1e-3)
    assert frame.kept[0] == 0 and frame.kept[known.truth.size] == 1 and frame.removed[0] == 1
    assert len(right.plot().data) >= 2
    assert right.cpr > 0.7 > wrong.cpr and right.cmd < wrong.cmd


def test_a_circuit_is_necessary_and_sufficient_and_random_sets_are_not(hops):
    known, pairs = hops
    found = weigh_set(known.model, pairs, list(known.heads.values()))
    assert found.necessity.value == pytest.approx(1, abs=0.05) and found.sufficiency.value == pytest.approx(1, abs=1e-3)
    assert (found.random.necessity < 0.5).all() and found.p["sufficiency"] <= 0.05
    assert "random sets of the same layers" in found.statement()[1]


def test_the_minimal_set_is_the_circuit(hops):
    known, pairs = hops
    heads, kept = minimal_set(known.model, pairs, locate(known.model, pairs, check=0))
    assert set(heads) == set(known.heads.values()) and kept >= 0.95


def test_heads_that_matter_only_together(hops):
    """Of the two that cancel, each loses what both together do not."""
    known = ALTERATIONS["cancelling pair"](hops[0])
    pairs = known.pairs(8)
    layer = known.heads["hop_2"][0]
    spare = [head for head in known.spare if head[0] == layer][-2:]
    (row,) = only_together(known.model, pairs, spare).itertuples()
    assert abs(row.together) < 1e-2 < abs(row.alone)


def test_sets_through_the_fan_out_are_sets_by_the_loop(llama):
    import interp

    sets = [[(0, 1), (2, 3)], [], [(1, 0), (1, 1), (2, 2)]]
    edits = interp.patch_each_head(PAIRS.corrupt, sets)
    fast, slow = (
        interp.scan(llama, PAIRS.clean, edits, positions="all", method=how).values for how in ("fan-out", "loop")
    )
    assert fast.shape == (4, 3) and np.allclose(fast, slow, atol=1e-4)


@pytest.mark.parametrize(
    "heads, message", [([], "a set of 0"), ("all", "not all of them"), ([(99, 0)], "out of range")]
)
def test_no_set_and_the_set_of_all_heads_are_refused(llama, heads, message):
    everything = list(np.ndindex(llama.n_layers, llama.n_heads))
    with pytest.raises(ValueError, match=message):
        weigh_set(llama, PAIRS, everything if heads == "all" else heads)


def test_a_share_that_is_none_is_refused(llama):
    with pytest.raises(ValueError, match="share=2"):
        minimal_set(llama, PAIRS, [(0, 0)], share=2)


@pytest.mark.parametrize("most", [1, 2, 17, 270])
def test_the_least_number_that_holds(most):
    for least in range(1, most + 1, 1 + most // 7):
        asked = []

        def holds(sizes, least=least, asked=asked):
            asked += sizes
            return [k >= least for k in sizes]

        assert _least(holds, most) == least and len(asked) <= 34

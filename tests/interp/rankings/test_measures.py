"""What a measure is decides what is tested, coloured and said: a probability, a signed score, a null value off zero."""

from __future__ import annotations

import re

import numpy as np
import pytest

from interp.figures import color_scale, heads_by_level
from interp.rankings.comparison import compare
from interp.rankings.controls import control_summary, sign_keepers
from interp.rankings.figures import heatmaps
from interp.rankings.measures import ATTENTION, Measure, register, registered
from interp.rankings.ranking import HeadRanking
from interp.reports.findings import render

LOGITS = Measure("effect", "What it adds.", "logits")


def make_ranking(about: Measure = ATTENTION, high: float = 1.0, **changes) -> HeadRanking:
    rng = np.random.default_rng(0)
    scores = rng.uniform(0, 0.1, size=(20, 4, 3))
    scores[:, 2, 1] = high
    measures = {about.name: scores, "effect": rng.normal(size=scores.shape), "swapped": scores[::-1]}
    arguments = {
        "score": about.name,
        "measures": measures,
        "example_ids": tuple(f"e{i}" for i in range(20)),
        "descriptions": {about.name: about, "effect": LOGITS, "swapped": about},
        "provenance": {"model": {"name": "m"}, "run_id": "r"},
        "controls": ("swapped",),
    }
    return HeadRanking(**(arguments | changes))


def test_a_probability_is_neither_tested_nor_given_a_sign():
    ranking = make_ranking()
    frame = ranking.to_frame()
    assert ranking.tested is None and frame[["p", "q"]].isna().all().all() and "swapped_verdict" not in frame
    said = " ".join(ranking.statement())
    assert "L2H1 has the highest mean attention, 1.00" in said
    assert "uniform attention is 1/S of a prompt of S tokens, and differs by prompt. So no head is tested." in said
    assert "Under swapped, which has no sign to compare, 10 of the top 10 heads are among the top 10" in said
    for word in ("differ from zero", "keep their sign", "keeps its sign", "most negative", "opposite sign"):
        assert word not in said
    summary = control_summary(ranking)
    assert summary[["sign_flips", "keeps_sign", "unclear"]].isna().all().all() and sign_keepers(ranking) == []
    page = render(ranking.to_findings())
    page = page[: page.index("<script>")]
    assert "sign-flip" not in page and "keeps sign</td>" not in page and "none: uniform attention" in page


def test_its_colours_begin_at_zero_and_have_one_direction():
    scale = make_ranking().plot().layout.coloraxis
    assert (scale.cmin, scale.cmax) == (0, 1) and "rgba" in scale.colorscale[0][1]
    signed = make_ranking(LOGITS, measures={"effect": np.ones((20, 4, 3))}, descriptions={}, controls=())
    assert (signed.plot().layout.coloraxis.cmin, signed.plot().layout.coloraxis.colorscale) == (-1, None)
    both = {"a": make_ranking(), "b": make_ranking(high=0.5)}
    one, own = (heatmaps(both, same_scale).layout for same_scale in (True, False))
    assert (one.coloraxis.cmin, one.coloraxis.cmax) == (0, 1) and own.coloraxis2.cmin == 0
    assert own.coloraxis2.cmax == pytest.approx(0.5)


def test_a_null_value_off_zero_is_the_middle_of_everything():
    chance = Measure("accuracy", "Of a probe on the head's output.", "share", (0.0, 1.0), null=0.5, null_is="chance")
    rng = np.random.default_rng(1)
    scores = 0.5 + 0.05 * rng.normal(size=(40, 4, 3))
    scores[:, 2, 1] += 0.2
    scores[:, 0, 0] -= 0.2
    turned = 1 - scores
    ids = tuple(map(str, range(40)))
    ranking = HeadRanking(
        "accuracy", {"accuracy": scores, "turned": turned}, ids, {"accuracy": chance, "turned": chance}, {},
        controls=("turned",),
    )  # fmt: skip
    said = " ".join(ranking.statement())
    assert re.search(r"heads differ from 0\.500 at a false discovery rate of 5 %", said)
    assert "The lowest is L0H0" in said and "None of the top 12 heads keeps its sign under it." in said
    frame = ranking.to_frame().set_index("label")
    assert frame.loc["L2H1", "q"] < 0.01 and (frame["q"] < 0.05).sum() < 6  # against zero, all 12 would be
    assert frame.loc["L2H1", "turned_verdict"] == "changes sign"
    assert ranking.select(sign="-", top=1) == [(0, 0)]
    scale = ranking.plot().layout.coloraxis
    assert scale.cmin + scale.cmax == pytest.approx(1)


def test_what_selects_by_a_test_is_refused_without_one():
    ranking = make_ranking()
    assert ranking.select(top=1) == [(2, 1)]
    for given in ({"q_below": 0.05}, {"sign": "+"}):
        with pytest.raises(ValueError, match=r"select by a test\. attention has no value .* Select by top alone"):
            ranking.select(**given)
    with pytest.raises(ValueError, match=r"tested_by names \['swapped'\], which can't be tested"):
        make_ranking(tested_by={"attention": "swapped"})


def test_one_sided_measures_with_a_null_say_why_they_are_not_tested():
    size = Measure("size", "Norm of what it writes.", "units", (0.0, None))
    assert not size.is_signed and "can't be below 0, the value of a head without effect" in size.untested()
    loss = Measure("loss", "Of the answer's probability.", "units", (None, 0.0))
    assert "can't be above 0" in loss.untested()


def test_a_measure_is_registered_once_and_says_itself():
    assert registered()["attention"] is ATTENTION and register(ATTENTION) is ATTENTION
    with pytest.raises(ValueError, match=r"'attention' is registered already"):
        register(Measure("attention", "Something else.", "logits"))
    with pytest.raises(ValueError, match="no meaning or no unit"):
        register(Measure("nameless"))
    with pytest.raises(ValueError, match="outside its range"):
        Measure("x", null=2.0, range=(0.0, 1.0))
    with pytest.raises(ValueError, match="expected the least value, then the most"):
        Measure("x", range=(1.0, 0.0))
    worded = Measure("x", "More {no!r} than {yes!r}.", "nats", higher="more {no}").worded(yes="Yes", no="{No}")
    assert worded.meaning == "More '{No}' than 'Yes'." and worded.higher == "more {No}"
    assert "x" not in registered()


def test_a_comparison_of_two_is_a_result_too(tmp_path):
    import interp

    found = compare(make_ranking(), make_ranking(high=0.5))
    assert "order the heads" in repr(found) or "agree" in repr(found)
    found.save(tmp_path)
    assert interp.load_result(tmp_path) == found


def test_values_below_their_base_get_the_other_colour():
    scale = color_scale(np.array([-3.0, -1.0, np.nan, 0.0]), is_signed=False)
    assert (scale["cmin"], scale["cmax"]) == (-3, 0) and [at for at, _ in scale["colorscale"]] == [0, 0.5, 1]
    assert scale["colorscale"][0][1].endswith(",1.0)") and scale["colorscale"][-1][1].endswith(",0.04)")
    by_level = heads_by_level({"a": np.ones((2, 2)), "b": np.zeros((2, 2))}, is_signed=False).layout.coloraxis
    assert (by_level.cmin, by_level.cmax) == (0, 1)

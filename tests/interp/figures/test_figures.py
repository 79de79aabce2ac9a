"""Figures: the right numbers in the right place, text escaped, nothing shown."""

import dataclasses
import functools

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from interp.figures import heads as figures
from interp.figures.intervals import interval_bars, interval_lines, min_width
from interp.figures.style import TEMPLATES
from interp.figures.views import TokenView
from interp.rankings.ranking import HeadRanking


@pytest.fixture(scope="module")
def ranking() -> HeadRanking:
    rng = np.random.default_rng(0)
    scores = rng.normal(0, 0.1, size=(20, 4, 3))
    scores[:, 2, 1] += 1.0
    scores[:, 3, 0] -= 0.7
    measures = {"nas": scores, "half": scores / 2, "huge": 1000 * scores, "<i>x": scores}
    return HeadRanking("nas", measures, tuple(map(str, range(20))), {"nas": "in nats, <b>"}, {})


@pytest.fixture(scope="module")
def view() -> TokenView:
    heads = {
        (0, 1): {"attention": np.array([0.7, 0.2, 0.1]), "contribution": np.array([0.0, -1.0, 2.0])},
        (1, 1): {"attention": np.array([1.0, 0.0, 0.0])},
    }
    return TokenView("e0", "Is <b> bold?", ("<s>", " a", "\n"), heads)


def test_heat_map_is_centred_at_zero_and_names_cells(ranking):
    figure = ranking.plot()
    heat = figure.data[0]
    np.testing.assert_allclose(heat.z, ranking.scores.mean(axis=0), atol=1e-6)
    axis = figure.layout.coloraxis
    assert axis.cmin == -axis.cmax and axis.cmax == pytest.approx(np.abs(heat.z).max())
    assert heat.text[2, 1].startswith("<b>L2H1</b>  rank 1<br>score +") and "half +" in heat.text[2, 1]
    assert "q " in heat.text[3, 0] and figure.layout.yaxis.autorange == "reversed"
    assert "in nats, &lt;b&gt;" in figure.layout.title.subtitle.text
    assert figures.head_heatmap(np.zeros((2, 2)), "t").layout.coloraxis.cmax == 1.0


def test_hover_tells_the_verdict_of_a_control(ranking):
    heat = dataclasses.replace(ranking, controls=("half",)).plot().data[0]
    assert "half +" in heat.text[2, 1] and ", keeps sign" in heat.text[2, 1]
    assert "keeps sign" not in ranking.plot().data[0].text[2, 1]


def test_hover_shows_the_example_in_which_a_head_is_most_extreme(ranking):
    scores = np.array([[[1.0, -1.0]], [[3.0, -4.0]], [[-5.0, 2.0]]])  # means: -1/3, -1
    lines = figures.strongest_examples(scores, ["first", "second <b>", "third"])
    shown = ["most extreme: <i>third</i>  -5", "most extreme: <i>second &lt;b&gt;</i>  -4"]
    assert lines.tolist() == [shown]
    with pytest.raises(ValueError, match="1 texts for 3 examples; expected one for each"):
        figures.strongest_examples(scores, ["first"])
    best = int(ranking.scores[:, 2, 1].argmax())
    texts = {name: f"question {name}" for name in ranking.example_ids}
    shown = f"<br>most extreme: <i>question {best}</i>  {ranking.scores[best, 2, 1]:+.3g}"
    assert ranking.plot(texts=texts).data[0].text[2, 1].endswith(shown)
    assert ranking.plot_top(3, texts).data[0].hovertext[0].endswith(shown)
    assert "question" not in ranking.plot().data[0].text[2, 1]
    with pytest.raises(ValueError, match="texts has none for 19 of 20 examples, the first '1'"):
        ranking.plot(texts={"0": "question 0"})


@pytest.mark.parametrize("name", ["any", "light", "dark"])
def test_scales_are_diverging_with_the_neutral_colour_in_the_middle(name):
    layout = TEMPLATES[name].layout
    positions, colors = zip(*layout.coloraxis.colorscale, strict=True)
    assert positions[0] == 0 and positions[3] == 0.5 and positions[-1] == 1
    red, _, blue = (int(colors[3][i : i + 2], 16) for i in (1, 3, 5))
    assert abs(red - blue) < 16  # a grey
    assert int(colors[0][5:7], 16) > int(colors[0][1:3], 16)  # blue below zero
    assert int(colors[-1][1:3], 16) > int(colors[-1][5:7], 16)  # orange above
    assert layout.paper_bgcolor == layout.plot_bgcolor == "rgba(0,0,0,0)"


def test_bars_carry_intervals_and_other_measures(ranking):
    figure = ranking.plot_top(5)
    bars, frame = figure.data[0], ranking.top(5)
    assert list(bars.y) == frame["label"].tolist()
    np.testing.assert_allclose(np.array(bars.x) + np.array(bars.error_x.array), frame["ci_high"])
    np.testing.assert_allclose(np.array(bars.x) - np.array(bars.error_x.arrayminus), frame["ci_low"])
    markers = {trace.name: trace for trace in figure.data[1:]}
    np.testing.assert_allclose(markers["half"].x, frame["half"])
    assert markers["half"].visible is True and markers["huge"].visible == "legendonly"
    assert "&lt;i&gt;x" in markers


def test_bars_without_intervals_for_one_example():
    one = HeadRanking("nas", {"nas": np.ones((1, 2, 2))}, ("e",), {}, {})
    assert one.plot_top().data[0].error_x.array is None


def test_scatter_names_the_extremes_and_draws_equality_only_for_like_scales(ranking):
    frame = ranking.to_frame()
    figure = figures.scatter(frame, "score", "half", n_labels=2)
    assert set(figure.data[1].text) == {"L2H1", "L3H0"}
    assert len(figure.data[0].x) + len(figure.data[1].x) == 12
    line = figure.data[2]
    assert line.mode == "lines" and list(line.x) == list(line.y)
    assert len(figures.scatter(frame, "score", "huge").data) == 2
    with pytest.raises(ValueError, match=r"No column 'total'; expected one of \['score', 'half', 'huge', '<i>x'\]"):
        figures.scatter(frame, "score", "total")


def test_token_bars_show_both_kinds_and_escape(view):
    figure = figures.token_bars(view, (0, 1))
    np.testing.assert_allclose(figure.data[0].y, [0.7, 0.2, 0.1], atol=1e-6)
    np.testing.assert_allclose(figure.data[1].y, [0.0, -1.0, 2.0])
    assert list(figure.layout.xaxis2.ticktext) == ["&lt;s&gt;", " a", "↵"]
    assert figure.layout.title.text == "L0H1: Is &lt;b&gt; bold?"
    assert len(figures.token_bars(view, (1, 1)).data) == 1
    with pytest.raises(ValueError, match=r"'e0' does not show \(5, 5\); expected one of: L0H1, L1H1"):
        figures.token_bars(view, (5, 5))


def test_figures_are_returned_not_shown(ranking, view, monkeypatch):
    monkeypatch.setattr(go.Figure, "show", lambda *args, **kwargs: pytest.fail("a figure was shown"))
    figures.scatter(ranking.to_frame(), "score", "half")
    for figure in (ranking.plot(), ranking.plot_top(), figures.token_bars(view, (0, 1))):
        assert isinstance(figure, go.Figure) and figure.to_json()


@pytest.fixture
def intervals() -> pd.DataFrame:
    rows = [
        {"scenario": scenario, "subset": subset, "k": k, "bias": k / 10, "low": k / 10 - 0.05, "high": k / 10 + 0.2}
        for subset in ("known", "unknown <b>")
        for scenario in ("plain", "chain_of_thought in <i>")
        for k in (5, 1, 20)
    ]
    return pd.DataFrame(rows).assign(n=40)


def test_interval_bars_are_groups_with_asymmetrical_intervals(intervals):
    rows = intervals[intervals["k"] == 5]
    figure = interval_bars(rows, "scenario", "bias", "low", "high", color="subset", title="<u>", reference=0.1)
    assert [trace.name for trace in figure.data] == ["known", "unknown &lt;b&gt;"]
    for trace in figure.data:
        assert list(trace.x) == ["plain", "chain_of_thought in <i>"]  # identities; the axis prints the escaped texts
        np.testing.assert_allclose(trace.base + np.array(trace.y), [0.5, 0.5])
        np.testing.assert_allclose(trace.error_y.array, [0.2, 0.2])
        np.testing.assert_allclose(trace.error_y.arrayminus, [0.05, 0.05])
        assert not trace.error_y.symmetric
    assert figure.layout.xaxis.ticktext == ("plain", "chain of<br>thought in<br>&lt;i&gt;")
    assert figure.layout.title.text == "&lt;u&gt;" and figure.layout.barmode == "group"
    assert figure.layout.shapes[0].y0 == figure.layout.shapes[0].y1 == 0.1
    assert figure.data[1].hovertext[0] == "<b>plain, unknown &lt;b&gt;</b><br>bias 0.5 [0.45, 0.7]<br>n 40"
    assert figure.data[0].marker.color != figure.data[1].marker.color


def test_interval_bars_mark_what_is_not_defined(intervals):
    rows = intervals[(intervals["k"] == 5) & (intervals["subset"] == "known")].copy()
    rows.loc[rows["scenario"] == "plain", ["bias", "low", "high"]] = np.nan
    trace = interval_bars(rows, "scenario", "bias", "low", "high").data[0]
    assert trace.text[0] == "–" and trace.text[1] == "" and trace.y[0] == 0
    assert "bias not known<br>" in trace.hovertext[0] and not trace.showlegend


def test_bars_whose_names_do_not_fit_lie_and_titles_are_wrapped():
    names = [f"measure number {i} of all" for i in range(12)]
    rows = pd.DataFrame({"measure": names, "value": 0.5, "low": 0.4, "high": 0.7})
    rows.loc[3, "value"] = np.nan
    figure = interval_bars(rows, "measure", "value", "low", "high", title="title " * 30)
    (trace,) = figure.data
    assert trace.orientation == "h" and list(trace.y) == names and trace.text[3] == "undefined"
    np.testing.assert_allclose(trace.error_x.array[0], 0.2)
    assert figure.layout.yaxis.autorange == "reversed" and figure.layout.shapes[0].x0 == 0.0
    assert "<br>" in figure.layout.title.text and min_width(figure) == 0


def test_four_panels_stand_two_by_two(intervals):
    named = [intervals.assign(scenario=f"{name}, of a title too long for one line of a panel") for name in "abcd"]
    rows = pd.concat(named).drop_duplicates(["k", "subset", "scenario"])
    figure = interval_lines(rows, "k", "bias", "low", "high", "subset", "scenario")
    assert len({axis.domain for axis in figure.select_xaxes()}) == 2
    assert all("<br>" in note.text for note in figure.layout.annotations)


def test_interval_lines_are_sorted_with_bands_or_bars_in_panels_of_one_scale(intervals):
    draw = functools.partial(interval_lines, intervals, "k", "bias", "low", "high", "subset", "scenario")
    assert draw(labels={"subset": ""}).layout.legend.title.text == "" != draw().layout.legend.title.text
    figure = draw(labels={"bias": "bias & <more>"})
    bands = [trace for trace in figure.data if trace.fill == "toself"]
    lines = [trace for trace in figure.data if trace.fill is None]
    assert len(bands) == len(lines) == 4 and [trace.showlegend for trace in lines] == [True, True, False, False]
    assert list(lines[0].x) == [1, 5, 20] and list(lines[0].y) == [0.1, 0.5, 2.0]
    assert list(bands[0].x) == [1, 5, 20, 20, 5, 1]
    np.testing.assert_allclose(bands[0].y, [0.05, 0.45, 1.95, 2.2, 0.7, 0.3])
    assert lines[0].line.dash != lines[1].line.dash and lines[0].marker.symbol != lines[1].marker.symbol
    assert lines[0].hovertext[0] == "<b>k 1, known</b><br>bias &amp; &lt;more&gt; 0.1 [0.05, 0.3]<br>n 40"
    assert figure.layout.yaxis2.matches == "y" and figure.layout.yaxis.title.text == "bias &amp; &lt;more&gt;"
    assert [a.text for a in figure.layout.annotations] == ["plain", "chain_of_thought in &lt;i&gt;"]
    assert len(figure.layout.shapes) == 2 and len(draw(reference=None).layout.shapes) == 0
    barred = draw(band=False)
    assert len(barred.data) == 4
    np.testing.assert_allclose(barred.data[0].error_y.array, [0.2] * 3)


def test_interval_lines_without_intervals_colours_or_panels(intervals):
    rows = intervals.assign(low=np.nan, high=np.nan).head(3)
    figure = interval_lines(rows, "k", "bias", "low", "high")
    assert len(figure.data) == 1 and not figure.data[0].showlegend
    late = intervals[(intervals["scenario"] != "plain") | (intervals["subset"] == "known")]  # first seen in panel two
    named = interval_lines(late, "k", "bias", "low", "high", "subset", "scenario")
    assert [trace.name for trace in named.data if trace.showlegend] == ["known", "unknown &lt;b&gt;"]
    many = pd.concat([intervals.head(3).assign(scenario=str(i)) for i in range(4)])
    assert interval_lines(many, "k", "bias", "low", "high", facet="scenario").layout.yaxis4.matches == "y"


def test_the_least_width_grows_with_bars_and_panels(intervals):
    rows = intervals[intervals["k"] == 5]
    draw = functools.partial(interval_bars, y="bias", low="low", high="high")
    assert min_width(draw(rows, "scenario", color="subset")) == 70 + 2 * 62  # "thought in" has ten letters
    wide = pd.concat([intervals.head(1).assign(scenario="s", subset=str(i)) for i in range(9)])
    assert min_width(draw(wide, "scenario", color="subset")) == 70 + 9 * 22
    lines = functools.partial(interval_lines, intervals, "k", "bias", "low", "high", "subset")
    assert min_width(lines()) == 0 and min_width(lines(facet="scenario")) == 60 + 2 * 230


def test_interval_figures_refuse_what_they_cannot_draw(intervals):
    with pytest.raises(ValueError, match=r"No column 'lo', 'hi'; expected some of \['scenario'"):
        interval_bars(intervals, "scenario", "bias", "lo", "hi")
    with pytest.raises(ValueError, match=r"Two rows have the same scenario and subset: \['plain', 'known'\]"):
        interval_bars(intervals, "scenario", "bias", "low", "high", color="subset")
    with pytest.raises(ValueError, match="no rows"):
        interval_lines(intervals.head(0), "k", "bias", "low", "high")

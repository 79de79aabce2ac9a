"""Figures as static SVG: what is drawn is where the numbers say, texts are escaped, every kind is drawn."""

from __future__ import annotations

import shutil
import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from interp.figures import heads, intervals, save_figure, svg
from interp.figures.levels import heads_by_level, overlap_matrix
from interp.figures.traces import tracing_heatmap

SVG = "{http://www.w3.org/2000/svg}"
EVIL = "<script>alert(1)</script>&\"'"


def parsed(figure: go.Figure, **more) -> ET.Element:
    return ET.fromstring(svg.draw(figure, **more))


def marks(root: ET.Element, tag: str) -> list[ET.Element]:
    return [node for node in root.iter(f"{SVG}{tag}") if "data-tip" in node.attrib]


def texts(root: ET.Element) -> list[str]:
    return ["".join(node.itertext()) for node in root.iter(f"{SVG}text")]


def test_a_heatmap_has_a_cell_for_each_value_in_its_place_and_shade():
    values = np.array([[-2.0, 0.0, 1.0], [2.0, np.nan, -1.0]])
    tips: dict[str, int] = {}
    root = parsed(heads.head_heatmap(values, "Heads"), tips=tips)
    cells = marks(root, "rect")
    assert [c.get("class") for c in cells] == ["q0", "q20", "q30", "q40", "q10"]  # no cell for what is missing
    x, y = ([float(c.get(k)) for c in cells] for k in "xy")
    assert x[0] < x[1] < x[2] and x[0] == x[3] and y[0] == y[1] < y[3]  # layer 0 on top
    assert "L1H0" in list(tips)[int(cells[3].get("data-tip"))]


def test_bars_and_whiskers_are_as_long_as_their_values():
    frame = pd.DataFrame({"set": ["a", "b"], "v": [1.0, -0.5], "v_low": [0.5, -1.0], "v_high": [2.0, 0.0]})
    root = parsed(intervals.interval_bars(frame, "set", "v"))
    first, second = (float(bar.get("height")) for bar in marks(root, "rect"))
    assert first == pytest.approx(2 * second, abs=0.2)
    paths = [node.get("d") for node in root.iter(f"{SVG}path") if node.get("d").count("M") == 3]
    ends = [[float(point.split()[1]) for point in path.replace("L", "M").split("M")[3:5]] for path in paths]
    assert abs(ends[0][0] - ends[0][1]) == pytest.approx(1.5 * first, abs=0.3)  # from 0.5 to 2


def test_what_is_undefined_is_said_and_not_drawn_as_zero():
    frame = pd.DataFrame({"set": ["a", "b"], "v": [1.0, np.nan], "v_low": [0.5, np.nan], "v_high": [2.0, np.nan]})
    root = parsed(intervals.interval_bars(frame, "set", "v"))
    assert len(marks(root, "rect")) == 2 and "–" in texts(root)


def test_points_lie_on_logarithmic_and_reversed_axes():
    figure = go.Figure(go.Scatter(x=[1, 2, 3], y=[1, 10, 100], mode="markers"))
    figure.update_yaxes(type="log", range=[2, 0], tickvals=[1, 10, 100])
    y = [float(c.get("cy")) for c in marks(parsed(figure), "circle")]
    assert y[2] > y[0]  # the range is given from 100 to 1, from the foot up
    assert y[1] - y[0] == pytest.approx(y[2] - y[1], abs=0.2)


def test_every_figure_is_drawn_and_refused_kinds_are_named():
    values = np.arange(8.0).reshape(2, 4)
    lines = pd.DataFrame({"x": [0, 1] * 2, "y": [0.1, 0.2] * 2, "of": ["a", "a", "b", "b"]})
    lines = lines.assign(y_low=lines["y"] - 0.1, y_high=lines["y"] + 0.1)
    for figure in (
        heads_by_level({"one": values, "two": -values}, title="t", marked={"one": [(0, 1)]}),
        overlap_matrix(np.eye(2) * 3, ["one", "two"], 3, 0.2),
        tracing_heatmap(np.ones((2, 3, 2)), ["layer", "mlp"], [0, 1, 2], ["the first", "the last"]),
        intervals.interval_lines(lines, "x", "y", color="of", facet="of"),
        intervals.interval_lines(lines, "x", "y", color="of", band=False),
    ):
        root = parsed(figure, said="What it shows")
        assert root.get("aria-label") == "What it shows" and len(list(root.iter())) > 20
    with pytest.raises(ValueError, match=r"\['pie'\] are not drawn"):
        svg.draw(go.Figure(go.Pie(values=[1, 2])))


def test_texts_are_escaped_and_plotlys_tags_are_read():
    frame = pd.DataFrame({"set": [EVIL], "v": [1.0], "v_low": [0.5], "v_high": [2.0]})
    tips: dict[str, int] = {}
    drawn = svg.draw(intervals.interval_bars(frame, "set", "v", color="set", title=EVIL), said=EVIL, tips=tips)
    assert "<script" not in drawn and "&lt;script&gt;" in drawn
    ET.fromstring(drawn)  # well formed
    assert any(EVIL in tip for tip in tips) and not any("<b>" in tip for tip in tips)


def test_names_of_points_do_not_cover_each_other():
    figure = go.Figure(go.Scatter(x=[0, 0.001, 1], y=[0, 0, 1], text=["near", "also", "far"], mode="markers+text"))
    figure.update_traces(textposition="top right")
    root = parsed(figure)
    places = {t: (float(n.get("x")), float(n.get("y"))) for n in root.iter(f"{SVG}text") for t in n.itertext()}
    assert abs(places["near"][1] - places["also"][1]) > 10 or abs(places["near"][0] - places["also"][0]) > 30


def test_a_figure_is_saved_for_a_paper_or_says_what_it_needs(tmp_path, monkeypatch):
    figure = heads.head_heatmap(np.eye(3), "Heads")
    saved = save_figure(figure, tmp_path / "new" / "heads.svg").read_text(encoding="utf-8")
    assert "<style>" in saved and "dark" not in saved and ET.fromstring(saved).get("viewBox")
    with pytest.raises(ValueError, match=r"expected \.svg, \.pdf or \.png"):
        save_figure(figure, tmp_path / "heads.jpg")

    def fails(*args, **kwargs):
        raise OSError("no browser")

    monkeypatch.setattr(go.Figure, "to_image", fails)
    with pytest.raises(RuntimeError, match=r"needs kaleido and a browser .* or save it as heads\.svg"):
        save_figure(figure, tmp_path / "heads.pdf")
    assert not (tmp_path / "heads.pdf").exists()


def test_kaleido_makes_a_pdf(tmp_path):
    pytest.importorskip("kaleido", reason="comes with the extra notebooks")
    if shutil.which("chromium") is None:
        pytest.skip("needs a browser: apt-get install chromium")
    saved = save_figure(heads.head_heatmap(np.eye(3), "Heads"), tmp_path / "heads.pdf")
    assert saved.read_bytes().startswith(b"%PDF")

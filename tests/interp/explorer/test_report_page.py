"""A report in a real browser: drawn at once, asked by a pointer, whole without a script."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import pytest

from interp import Findings
from interp.figures.intervals import interval_bars
from tests.interp.explorer.conftest import SHOTS, ranking


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    ranking(32, 32).save(folder)
    assert (folder / "report.html").stat().st_size < 1_000_000
    return folder / "report.html"


def test_a_report_is_drawn_in_two_seconds_and_answers_a_pointer(browser, report):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    told, asked = [], []
    page.on("console", lambda message: told.append(message.text))
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    began = time.perf_counter()
    page.goto(report.as_uri())
    page.wait_for_selector("svg.plot rect[data-tip]")
    assert time.perf_counter() - began < 2
    page.locator("svg.plot rect[data-tip]").nth(33).hover()
    assert page.locator("#tip").inner_text().startswith("L1H1")
    page.mouse.move(5, 5)
    assert page.locator("#tip").is_hidden()
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / "report.png")
    assert told == [] and asked == [report.as_uri()]


def test_a_legend_turns_marks_off_by_keyboard(browser, tmp_path):
    r = np.random.default_rng(0)
    frame = pd.DataFrame({"set": ["a", "a", "b", "b"], "of": ["one", "two"] * 2, "v": r.normal(size=4)})
    frame = frame.assign(v_low=frame["v"] - 1, v_high=frame["v"] + 1)
    Findings("t", ["s"], {}, {"f": interval_bars(frame, "set", "v", color="of")}, {}).save(tmp_path)
    page = browser.new_page()
    page.goto((tmp_path / "report.html").as_uri())
    key = page.locator("[data-key]").first
    key.press("Enter")
    assert key.get_attribute("aria-pressed") == "false" and page.locator("[data-trace='0']").is_hidden()
    key.press("Enter")
    assert page.locator("[data-trace='0']").is_visible()


def test_a_report_is_whole_without_javascript(browser, report):
    page = browser.new_context(java_script_enabled=False, viewport={"width": 390, "height": 800}).new_page()
    page.goto(report.as_uri())
    assert page.locator("svg.plot").count() >= 3 and page.locator("tbody tr").count() > 600
    assert page.locator("svg.plot").first.get_attribute("aria-label").startswith("All heads")

"""The widget in a browser, with a stand-in for the notebook: what it shows, what it asks the model, and what it says of
an answer. `python -m tests.benchmarks.explorer` runs it in a live JupyterLab."""

from __future__ import annotations

import base64
import json

import pytest

import interp
from tests.interp.explorer.conftest import exploration
from tests.tiny import prompt

HOST = """<!DOCTYPE html><meta charset="utf-8"><body data-jp-theme-light="false"><div id="cell"></div>
<script type="module">
  window.start = async (esm, packed, isLive) => {
    const bytes = Uint8Array.from(atob(packed), (c) => c.charCodeAt(0));
    const heard = [];
    const model = {
      get: (name) => name === "packed" ? new DataView(bytes.buffer) : isLive,
      on: (name, act) => heard.push(act),
      off: () => {},
      send: async (message) => { const reply = JSON.parse(await window.python(JSON.stringify(message))); heard.forEach((act) => act(reply)); },
    };
    const made = await import(URL.createObjectURL(new Blob([esm], {type: "text/javascript"})));
    await made.default.render({model, el: document.getElementById("cell")});
  };
</script></body>"""  # noqa: E501


@pytest.fixture
def started(browser):
    """A widget in a page, whose messages are answered here; and what it asked."""
    widgets = pytest.importorskip("interp.explorer.widget", reason="needs anywidget: pip install -e '.[explorer]'")
    pages = []

    def start(made, live=None):
        widget, asked = widgets.widget_of(made, live), []
        page = browser.new_page(viewport={"width": 1000, "height": 900})
        pages.append(page)

        def python(message: str) -> str:
            asked.append(json.loads(message))
            return json.dumps(widgets.answer(live, asked[-1]))

        page.expose_function("python", python)
        page.set_content(f"<style>{widget._css}</style>{HOST}")
        packed = base64.b64encode(widget.packed).decode()
        page.wait_for_function("() => Boolean(window.start)")
        page.evaluate("(given) => window.start(...given)", [str(widget._esm), packed, widget.is_live])
        page.wait_for_selector(".hs[data-ready]")
        return page, asked

    yield start
    for page in pages:
        page.close()


def test_a_slider_asks_the_model_and_shows_what_it_measured(started, llama):
    found = interp.explore(llama, [prompt(9), prompt(12, seed=1)])
    page, asked = started(found, found.live)
    assert page.locator(".hs").get_attribute("data-theme") == "dark"  # JupyterLab's
    page.locator('.hs-map rect[aria-label^="L2H1:"]').click()
    page.get_by_role("button", name="Turn L2H1 off").click()
    page.locator('.hs-map rect[aria-label^="L3H0:"]').click()
    page.get_by_role("slider", name="L3H0").fill("0.3")
    page.wait_for_function("document.querySelector('.hs-answers-card').innerText.includes('Measured: ')")
    expected = found.live.probabilities(0, {(2, 1): 0.0, (3, 0): 0.3})
    shown = page.locator(".hs-answer > span:last-child").all_inner_texts()
    assert [float(text.split("→")[1]) for text in shown] == pytest.approx(expected, abs=6e-4)
    assert asked[-1]["heads"] == [[2, 1, 0], [3, 0, 0.3]] and asked[-1]["prompt"] == 0


def test_a_model_that_fails_is_told(started, llama):
    found = interp.explore(llama, [prompt(9)])
    object.__setattr__(found.live, "prompts", ())  # as where the model was freed
    page, _ = started(found, found.live)
    page.get_by_role("button", name="Turn").first.click()
    page.wait_for_function("document.querySelector('.hs-answers-card').innerText.includes('could not answer')")


def test_without_a_model_it_reads_what_was_computed(started):
    page, asked = started(exploration())
    page.get_by_role("button", name="Turn").first.click()
    assert "Computed beforehand" in page.locator(".hs-answers-card").inner_text() and not asked

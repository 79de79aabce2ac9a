"""The HTML report: what it says follows from the numbers; nothing is loaded; all text is escaped."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from plotly.offline import get_plotlyjs

from interp import report
from interp.ranking import HeadRanking
from interp.views import TokenView

EVIL = "</script><script>alert(1)</script>"


class Page(HTMLParser):
    """Elements with attributes, the visible text, and the content of each script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.scripts: list[str] = []
        self.inside = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        if self.inside == "script":
            self.scripts[-1] += data
        elif self.inside != "style":
            self.text.append(data)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


def make_ranking(**changes) -> HeadRanking:
    rng = np.random.default_rng(0)
    scores = rng.normal(0, 0.2, size=(30, 4, 3))
    scores[:, 2, 1] += 1.0
    scores[:, 0, 2] += 0.5
    swapped = scores.copy()
    swapped[:, 0, 2] *= -1
    total, direct = 2 * scores, scores / 2
    heads = {
        (2, 1): {"attention": [0.9, 0.1], "contribution": [0.5, -0.25]},
        (0, 2): {"attention": [0.5, 0.5]},
    }
    arguments = {
        "score": "nas",
        "measures": {"nas": scores, "swapped": swapped, "total_effect": total, "direct_effect": direct},
        "example_ids": tuple(f"e{i}" for i in range(30)),
        "descriptions": {"nas": "High: looks at No.", "swapped": "Options swapped."},
        "provenance": {
            "run_id": "run-7",
            "title": "A title",
            "model": {"name": "tiny-model", "sha256": "abc123"},
            "seed": 3,
            "citation": ["Someone (2024), https://example.org/paper"],
            "caveats": ["Only one template."],
        },
        "views": (TokenView("e0", "Is it so?", ("It", " is\n"), heads),),
    }
    return HeadRanking(**(arguments | changes))


@pytest.fixture(scope="module")
def html() -> str:
    return report.render(make_ranking())


@pytest.fixture(scope="module")
def page(html) -> Page:
    return Page(html)


def test_statement_follows_from_the_numbers():
    ranking = make_ranking()
    best = ranking.top(1).iloc[0]
    text = " ".join(report.statement(ranking))
    assert "tiny-model, 30 examples: of 12 heads, L2H1 has the highest mean nas" in text
    assert f"{best.score:#.3g}, 95 % interval {best.ci_low:#.3g} to {best.ci_high:#.3g}" in text
    assert "1 of the top 10 heads changes sign when measured by swapped" in text
    alone = make_ranking(measures={"nas": ranking.scores}, descriptions={})
    assert "No control was measured" in report.statement(alone)[-1]
    agreeing = make_ranking(measures={"nas": ranking.scores, "same": ranking.scores}, descriptions={})
    text = " ".join(report.statement(agreeing))
    assert "None of the top 10 heads changes sign under any other measure (same)" in text


def test_statement_about_reliability():
    ids = tuple("abc")
    few = make_ranking(measures={"nas": make_ranking().scores[:3]}, example_ids=ids, descriptions={})
    assert "too few examples" in " ".join(report.statement(few))
    rng = np.random.default_rng(0)
    noise = make_ranking(measures={"nas": rng.normal(size=(30, 20, 15))}, descriptions={})
    assert "the order of most heads is noise" in " ".join(report.statement(noise))
    graded = make_ranking(measures={"nas": noise.scores + np.arange(300).reshape(20, 15)}, descriptions={})
    assert "the order would be much the same in another sample" in " ".join(report.statement(graded))


def test_page_holds_everything_a_reader_needs(page):
    text = " ".join(" ".join(page.text).split())
    for expected in (
        "A title", "tiny-model", "run-7", "model.sha256", "abc123", "Only one template.", "looks at No.",
        "Someone (2024), https://example.org/paper", "Options swapped.", "1 of 10", "Is it so?", "is↵",
    ):  # fmt: skip
        assert expected in text
    rows = [attributes for tag, attributes in page.elements if tag == "tr" and "data-label" in attributes]
    assert [row["data-label"] for row in rows] == make_ranking().to_frame()["label"].tolist()
    titles = [attributes["title"] for tag, attributes in page.elements if tag == "span" and "title" in attributes]
    assert len(titles) == 6 and "0: 'It' contribution 0.5" in titles


def test_figures_are_valid_json_with_one_place_each(page):
    plots = [attributes["data-for"] for tag, attributes in page.elements if attributes.get("class") == "plot"]
    places = [attributes["id"] for tag, attributes in page.elements if attributes.get("class") == "figure"]
    assert sorted(plots) == sorted(places) and len(plots) == 6  # heat, bars, three measures, direct against total
    for script in page.scripts[1:-1]:
        json.loads(script)
    assert len(make_ranking().others) == 3


def test_nothing_is_loaded_from_anywhere(html, page):
    assert html.count(get_plotlyjs()) == 1
    own = html.replace(get_plotlyjs(), "")
    assert not re.search(r"""(src|href|action|data|poster|srcset)\s*=\s*["']?\s*(https?:)?//""", own)
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|import\(|<link|<iframe|<img|sendBeacon|WebSocket", own)
    for tag, attributes in page.elements:
        assert "src" not in attributes
        assert attributes.get("href", "#").startswith("#"), tag
    policies = [a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policies and policies[0].startswith("default-src 'none'") and "http" not in policies[0]


def test_all_text_is_escaped(page):
    shape = (30, 4, 3)
    measures = {EVIL: np.random.default_rng(0).normal(size=shape), "other" + EVIL: np.ones(shape)}
    heads = {(2, 1): {"attention": [0.9, 0.1], "contribution": [0.5, -0.25]}}
    evil = report.render(
        make_ranking(
            score=EVIL,
            measures=measures,
            descriptions={EVIL: EVIL, "other" + EVIL: EVIL},
            provenance={
                "title": EVIL, "model": {"name": EVIL}, EVIL: EVIL, "run_id": EVIL, "citation": EVIL,
                "caveats": [EVIL], "list": [EVIL], "nested": [{"a": EVIL}],
            },
            views=(TokenView(EVIL, EVIL, (EVIL, '"><script>alert(2)</script>'), heads),),
        )
    )  # fmt: skip
    parsed = Page(evil)
    assert "alert(1)" in "".join(parsed.text)  # it is there, as text
    own = evil.replace(get_plotlyjs(), "")
    assert "<script>alert" not in own
    assert parsed.count("script") == len(parsed.scripts) == 3 + 3  # plotly, templates, ours; heat, bars, one scatter
    for script in parsed.scripts[1:-1]:
        json.loads(script)


def test_a_bare_ranking_renders():
    bare = HeadRanking("nas", {"nas": np.zeros((1, 1, 1))}, ("e0",), {}, {})
    text = " ".join(Page(report.render(bare)).text)
    assert "Model not named" in text and "nan" not in text.lower().replace("provenance", "")


def test_numbers_are_short_and_mark_what_is_missing():
    assert [report.number(value) for value in (0.84, -1.23456, 0.0, 12, 7.4e-05, float("nan"), None)] == [
        "0.840", "−1.23", "0.00", "12", "7.40e−05", "–", "–",
    ]  # fmt: skip

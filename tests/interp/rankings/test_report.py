"""The HTML report: what it says follows from the numbers; nothing is loaded; all text is escaped."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from interp.figures.views import TokenView
from interp.rankings import report
from interp.rankings.controls import plain_answer, sign_keepers
from interp.rankings.measures import Measure
from interp.rankings.ranking import HeadRanking
from interp.reports.findings import Findings, render

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
        (2, 1): {"attention": np.array([0.9, 0.1]), "contribution": np.array([0.5, -0.25])},
        (0, 2): {"attention": np.array([0.5, 0.5])},
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
    return render(make_ranking().to_findings())


@pytest.fixture(scope="module")
def page(html) -> Page:
    return Page(html)


def test_statement_follows_from_the_numbers():
    ranking = make_ranking()
    best = ranking.top(1).iloc[0]
    text = " ".join(report.statement(ranking))
    assert "tiny-model, 30 examples: of 12 heads, L2H1 has the highest mean NAS" in text
    assert f"{best.score:#.3g} [{best.ci_low:#.3g}, {best.ci_high:#.3g}]" in text
    assert "No control was named" in text
    alone = make_ranking(measures={"nas": ranking.scores}, descriptions={})
    assert "No control was named: the ranking stands on this one score." in report.statement(alone)
    above = make_ranking(measures={"nas": ranking.scores + 1}, descriptions={})
    assert "The most negative" not in " ".join(report.statement(above))
    negative = make_ranking(measures={"nas": -ranking.scores}, descriptions={})
    last = negative.to_frame().iloc[-1]
    assert f"The most negative is L2H1, {report.number(last.score)} [" in " ".join(report.statement(negative))


def test_statement_speaks_of_the_controls_before_other_measures():
    ranking = make_ranking(controls=("swapped",))
    verdicts = ranking.top(10)["swapped_verdict"].tolist()
    assert verdicts[:2] == ["keeps sign", "changes sign"] and verdicts.count("changes sign") == 1
    keeps, unclear = verdicts.count("keeps sign"), verdicts.count("unclear")
    text = " ".join(report.statement(ranking))
    assert re.search(
        rf"Under swapped, {keeps} of the top 10 heads keeps? (its|their) sign with both intervals off zero and 1 "
        rf"changes it, {unclear} (is|are) unclear: a head that changes sign is not about what the control leaves",
        text,
    )
    assert f"keep their sign under it: {', '.join(sign_keepers(ranking))}." in text and "L2H1" in sign_keepers(ranking)
    assert text.index("Under swapped") < text.index("Other measures")
    assert "opposite sign there: 0 by total effect, 0 by direct effect." in text  # a control is not among them
    both = " ".join(report.statement(make_ranking(controls=("direct_effect", "swapped"))))
    assert both.index("Under direct effect") < both.index("Under swapped") and "under every control: L2H1" in both
    flipped = make_ranking(
        measures={"nas": ranking.scores, "swapped": -ranking.scores}, descriptions={}, controls=("swapped",)
    )
    assert "None of the top 12 heads keeps its sign under it." in report.statement(flipped)
    itself = report.statement(flipped.by("swapped"))
    assert "No control was named but swapped, by which the heads are ranked." in itself


def test_method_states_the_smallest_p_and_q():
    def text(n: int, shape: tuple[int, int]) -> str:
        measures = {"nas": np.ones((n, *shape), dtype=np.float32)}
        ids = tuple(map(str, range(n)))
        return report._floor_sentence(make_ranking(measures=measures, example_ids=ids, descriptions={}, views=()))

    assert "With 27,000 sign flips no p can be below 7.41e−05, so no single head's q below 0.0200" in text(30, (30, 9))
    assert "With 8 sign flips no p can be below 0.250, so no single head's q below 1.00" in text(3, (4, 3))
    assert "2 sign flips no p can be below 1.00" in text(1, (1, 1))


def test_page_shows_verdicts_and_separates_controls_from_other_measures():
    ranking = make_ranking(controls=("swapped",))
    text = render(ranking.to_findings())
    changed = (ranking.to_frame()["swapped_verdict"] == "changes sign").sum()
    assert changed and text.count(">changes sign</td>") == changed
    assert "swapped verdict</button>" in text and "total_effect verdict" not in text
    section = text[text.index("<h2>Controls</h2>") : text.index("<h2>Measures</h2>")]
    first, second = section.split("<h2>Other measures</h2>")
    assert ">swapped</td>" in first and ">total_effect</td>" not in first
    assert ">total_effect</td>" in second and ">swapped</td>" not in second
    assert "Heads of the top 12 that keep their sign under every control" in first
    assert ", ".join(sign_keepers(ranking)) in first
    assert "no p can be below" in text


def test_statement_about_reliability():
    ids = tuple("abc")
    few = make_ranking(measures={"nas": make_ranking().scores[:3]}, example_ids=ids, descriptions={})
    assert "too few examples" in " ".join(report.statement(few))
    few.provenance["beside"] = ["2 heads act at earlier positions."]
    assert "2 heads act at earlier positions." in report.statement(few)  # said of few examples too
    rng = np.random.default_rng(0)
    noise = make_ranking(measures={"nas": rng.normal(size=(30, 20, 15))}, descriptions={})
    assert "the order of most heads is noise" in " ".join(report.statement(noise))
    graded = make_ranking(measures={"nas": noise.scores + np.arange(300).reshape(20, 15)}, descriptions={})
    assert "the order would be much the same in another sample" in " ".join(report.statement(graded))


def test_page_holds_everything_a_reader_needs(page):
    text = " ".join(" ".join(page.text).split())
    for expected in (
        "A title", "tiny-model", "run-7", "sha256", "abc123", "Only one template.", "looks at No.",
        "Someone (2024), https://example.org/paper", "Options swapped.", "1 by swapped", "Is it so?", "is↵",
    ):  # fmt: skip
        assert expected in text
    rows = [attributes for tag, attributes in page.elements if tag == "tr" and "data-label" in attributes]
    assert [row["data-label"] for row in rows] == make_ranking().to_frame()["label"].tolist()
    titles = [attributes["title"] for tag, attributes in page.elements if tag == "span" and "title" in attributes]
    assert len(titles) == 6 and "0: 'It' contribution 0.5" in titles


def test_figures_are_drawn_and_what_a_pointer_shows_is_there(page):
    plots = [tag for tag, attributes in page.elements if attributes.get("class") == "plot"]
    assert plots == ["svg"] * 6  # heat, bars, three measures, direct against total
    tips = json.loads(page.scripts[0])
    asked = {int(attributes["data-tip"]) for _, attributes in page.elements if "data-tip" in attributes}
    assert asked == set(range(len(tips))) and any("L2H1" in tip for tip in tips)
    assert len(make_ranking().others) == 3


def test_a_page_of_1024_heads_is_under_a_megabyte():
    scores = np.random.default_rng(0).normal(size=(12, 32, 32))
    measures = {"nas": scores, "nas_swapped_order": -scores, "total_effect": scores / 3, "direct_effect": scores / 5}
    ids = tuple(map(str, range(12)))
    page = render(HeadRanking("nas", measures, ids, {}, {}, controls=("nas_swapped_order",)).to_findings())
    assert len(page.encode()) < 1_000_000 and "The first 600 of 1024 rows; all in full precision" in page


def test_all_heads_of_a_large_model_are_on_the_page_and_can_be_filtered():
    rng = np.random.default_rng(0)
    text = render(
        HeadRanking("nas", {"nas": rng.normal(size=(12, 25, 24))}, tuple("abcdefghijkl"), {}, {}).to_findings()
    )
    page = Page(text)
    labels = [a["data-label"] for tag, a in page.elements if tag == "tr" and "data-label" in a]
    assert len(labels) == 600 and "Filter heads" in " ".join(page.text)
    assert sum(a.get("type") == "search" for _, a in page.elements) == 1


def test_nothing_is_loaded_from_anywhere(html, page):
    assert "plotly" not in html
    own = html
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
    heads = {(2, 1): {"attention": np.array([0.9, 0.1]), "contribution": np.array([0.5, -0.25])}}
    evil = render(
        make_ranking(
            score=EVIL,
            measures=measures,
            descriptions={EVIL: EVIL, "other" + EVIL: EVIL},
            provenance={
                "title": EVIL, "model": {"name": EVIL}, EVIL: EVIL, "run_id": EVIL, "citation": EVIL,
                "caveats": [EVIL], "list": [EVIL], "nested": [{"a": EVIL}],
            },
            views=(TokenView(EVIL, EVIL, (EVIL, '"><script>alert(2)</script>'), heads),),
        ).to_findings()
    )  # fmt: skip
    parsed = Page(evil)
    assert "alert(1)" in "".join(parsed.text)  # it is there, as text
    own = evil
    assert "<script>alert" not in own
    assert parsed.count("script") == len(parsed.scripts) == 2  # what a pointer shows, and ours
    json.loads(parsed.scripts[0])


def test_a_bare_ranking_renders():
    bare = HeadRanking("nas", {"nas": np.zeros((1, 1, 1))}, ("e0",), {}, {})
    text = " ".join(Page(render(bare.to_findings())).text)
    assert "Model not named" in text and "nan" not in text.lower().replace("provenance", "")


def test_numbers_are_short_and_mark_what_is_missing():
    assert [report.number(value) for value in (0.84, -1.23456, 0.0, 12, 7.4e-05, float("nan"), None, 1234.6)] == [
        "0.840", "−1.23", "0.00", "12", "7.40e−05", "–", "–", "1235",
    ]  # fmt: skip


def test_the_answer_comes_first_in_plain_words():
    swapped = Measure("swapped", changes="the position", leaves="the word")
    place = np.arange(1, 13).reshape(3, 4)
    scores = np.random.default_rng(0).normal(size=(20, 3, 4)) * 0.1 + place

    def made(control, n=20, descriptions=swapped):
        measures = {"nas": scores[:n], "swapped": control[:n]}
        described = {"swapped": descriptions} if descriptions else {}
        return HeadRanking("nas", measures, tuple(map(str, range(n))), described, {}, controls=("swapped",))

    flips, stays, mixed = made(-scores), made(scores), made(np.where(place % 2, scores, -scores))
    first = "All of the 10 heads with the highest NAS"
    assert plain_answer(flips) == (
        f"{first} change sign under swapped: this ranking is about the position, not about the word."
    )
    assert plain_answer(stays) == (
        f"{first} keep their sign under swapped: this ranking is about the word, not about the position."
    )
    assert plain_answer(mixed).endswith("whether this ranking is about the word or about the position is not settled.")
    assert "about what that control changes, not about" in plain_answer(made(-scores, descriptions=None))
    assert plain_answer(made(-scores, n=9)) == "" and plain_answer(flips.by("swapped")) == ""
    page = render(flips.to_findings())
    assert page.index(plain_answer(flips)) < page.index(flips.statement()[0]) < page.index('class="cards"')
    assert "0 of 12" in page and "12 of 12" in page  # keep their sign; differ from zero
    small = Findings("t", ["s"], {"t": pd.DataFrame({"overlap_p": [3e-5], "p": [2e-4]})}, {}, {})
    assert "&lt; 0.0001" in render(small) and "0.000200" in render(small)


def test_what_is_long_is_folded_and_each_figure_is_told():
    page = render(make_ranking(controls=("swapped",)).to_findings())
    assert page.count('<details class="provenance">') >= 1 and "What else was found" in page
    assert page.count('role="figure"') == page.count("<svg ") == page.count('role="img" aria-label="') > 3
    assert 'aria-label=""' not in page

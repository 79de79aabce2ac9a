"""What an exploration holds, from a model and from a saved ranking; what its page may weigh, and what it refuses."""

from __future__ import annotations

import base64
import io
import json
import re
import zlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import interp
from interp.explorer import Exploration, exploring
from interp.explorer.exploration import SCALES
from interp.explorer.packing import kept_steps, packed
from interp.reading import attention_log_probs, attention_sources
from tests.interp.explorer.conftest import exploration, ranking
from tests.interp.tiny_vision import picture, tiny_vision
from tests.tiny import prompt, tiny


@pytest.fixture(scope="module")
def explored(llama):
    return interp.explore(llama, [prompt(9), prompt(14, seed=1)])


def test_effects_are_those_of_scans(llama, explored):
    prompts = [prompt(9), prompt(14, seed=1)]
    for i, scale in enumerate(SCALES):
        for answer, word in enumerate(("No", "Yes")):
            scan = interp.scan(llama, prompts, interp.scale_each_head(scale), metric=interp.Probability(word))
            for p, shown in enumerate(explored.prompts):
                read = shown.clean[answer] * np.exp(shown.changes[:, :, i, answer])
                np.testing.assert_allclose(read.ravel(), scan.values[p], rtol=1e-4, atol=1e-6)
    drop = interp.scan(llama, prompts, interp.ablate_each_head()).drop
    np.testing.assert_allclose(explored.ranking.scores.reshape(2, -1), drop, atol=1e-4)


def test_attention_and_contributions_are_those_of_the_model(llama, explored):
    split = interp.attribute(llama, prompt(9))
    shown = explored.prompts[0]
    np.testing.assert_allclose(shown.attention, split.attention, atol=1e-6)
    np.testing.assert_allclose(shown.contribution, split.by_token, atol=1e-6)
    np.testing.assert_allclose(explored.ranking.measures["direct_effect"][0], split.heads, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2"])  # gemma2: windows and soft caps
def test_the_strongest_sources_are_those_of_the_whole_attention(name):
    model, asked = interp.load(tiny(name)), prompt(17)
    n = len(asked)
    whole = attention_log_probs(model, [asked], [range(n)], [[[i] for i in range(n)]])[0].exp()
    places, weights = attention_sources(model, asked, k=3, max_rows=5)
    np.testing.assert_allclose(weights, whole.topk(3, dim=-1).values, atol=1e-5)
    np.testing.assert_allclose(whole.gather(-1, places), weights, atol=1e-5)


def test_a_live_answer_is_the_saved_one_at_the_measured_points(explored):
    shown = explored.prompts[1]
    for i, scale in enumerate(SCALES):
        found = explored.live.probabilities(1, {(2, 1): scale})
        expected = np.log(shown.clean) + shown.changes[2, 1, i]
        np.testing.assert_allclose(np.log(found), expected, atol=1e-3)
    both = explored.live.probabilities(1, {(2, 1): 0.0, (3, 0): 0.0})
    edits = tuple(interp.HeadEdit(*head) for head in ((2, 1), (3, 0)))
    scan = interp.scan(
        explored.live.model, [prompt(14, seed=1)], [interp.Branch(edits)], metric=interp.Probability("No"), check=0
    )
    assert both[0] == pytest.approx(scan.values.item(), abs=1e-6) and sum(both) == pytest.approx(1)
    np.testing.assert_allclose(explored.live.probabilities(1, {}), shown.clean, atol=1e-6)


def test_it_is_saved_and_read_back(explored, tmp_path):
    explored.save(tmp_path / "kept")
    again = interp.load_result(tmp_path / "kept")
    assert isinstance(again, Exploration) and again.live is None
    for a, b in zip(explored.prompts, again.prompts, strict=True):
        assert a.tokens == b.tokens and a.answers == b.answers
        for name in ("attention", "contribution", "changes", "sources", "weights", "clean"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert (
        again.save_explorer(tmp_path / "a.html").read_bytes()
        == explored.save_explorer(tmp_path / "b.html").read_bytes()
    )


def test_a_prompt_without_answers_gets_the_likeliest_tokens(llama):
    bare = interp.Prompt.from_token_ids([5, 9, 11, 4])
    found = interp.explore(llama, [bare])
    likely = llama.final_logits([bare])[0].softmax(-1).topk(2)
    assert found.prompts[0].answers == tuple(f"{t}" for t in likely.indices.tolist())
    np.testing.assert_allclose(found.prompts[0].clean[:2], likely.values, atol=1e-6)
    assert found.ranking.n_examples == 1 and "<tr" not in found._repr_html_()  # too few prompts to order heads
    assert header_of(packed(found, kept_steps(found)[0]))["maps"][0]["few"]


def test_a_given_ranking_comes_first(llama):
    given = ranking(4, 4)
    found = interp.explore(llama, [prompt(9)], ranking=given, kinds={"L1H1": "copies"})
    assert list(found.rankings) == ["nas", "effects on these prompts"] and found.ranking is given
    assert list(given.explore(llama, [prompt(9)]).rankings) == list(found.rankings)
    with pytest.raises(ValueError, match=r"6 layers of 4 heads.*Give a ranking of this model"):
        interp.explore(llama, [prompt(9)], ranking=ranking())


def test_a_model_without_readable_attention_has_effects_alone(explored):
    model = interp.load(tiny("llama"))
    object.__setattr__(model, "attention_refusal", "it computes attention in its own way")
    with pytest.warns(UserWarning, match="one pass for each edit"):
        found = interp.explore(model, [prompt(9)])
    shown = found.prompts[0]
    assert shown.attention is None and shown.contribution is None and shown.sources is None
    np.testing.assert_allclose(shown.changes, explored.prompts[0].changes, atol=1e-3)
    assert any("Attention is left out" in note for note in found.notes)
    assert list(found.ranking.measures) == ["total_effect"]


def test_bad_input_is_refused(llama, tmp_path):
    with pytest.raises(ValueError, match="no prompts were given"):
        interp.explore(llama, [])
    with pytest.raises(ValueError, match="1 pictures for 2 prompts"):
        interp.explore(llama, [prompt(9), prompt(8)], pictures=["a.png"])
    with pytest.raises(ValueError, match="there is no ranking"):
        Exploration({})
    with pytest.raises(ValueError, match="prompts and a ranking of one model"):
        Exploration({"nas": ranking(5, 5)}, exploration().prompts)
    with pytest.raises(IsADirectoryError, match="give the page a name"):
        exploration().save_explorer(tmp_path)
    with pytest.raises(ValueError, match=r"with one prompt and its fewest tokens.*most_mb"):
        exploration().save_explorer(tmp_path / "a.html", most_mb=0.01)
    with pytest.raises(TypeError, match="holds no ranking of heads"):
        interp.Result.explore(object())
    with pytest.raises(TypeError, match="prompts"):
        interp.explore(llama, 3)


def header_of(content: bytes) -> dict:
    whole = zlib.decompress(content, -15)
    return json.loads(whole[4 : 4 + int.from_bytes(whole[:4], "little")])


def test_a_page_of_270_heads_and_20_prompts_is_under_5_mb(tmp_path):
    path = exploration(30, 9, n_prompts=20, n_tokens=60).save_explorer(tmp_path / "heads.html")
    assert path.stat().st_size < 5e6
    assert "Sources of each token that this page keeps" not in path.read_text(encoding="utf-8")


def test_a_page_gives_up_sources_then_prompts_to_stay_small(tmp_path):
    made = exploration(12, 8, n_prompts=8, n_tokens=40)
    sizes = [len(packed(made, kept)) for kept in kept_steps(made)]
    assert sizes == sorted(sizes, reverse=True)
    notes = header_of(packed(made, kept_steps(made)[-1]))["notes"]
    assert any("none, to stay below its size" in n for n in notes) and any("first 1 of 8 prompts" in n for n in notes)
    page = made.save_explorer(tmp_path / "small.html", most_mb=0.2)
    assert page.stat().st_size < 0.2e6


def test_equal_explorations_make_equal_pages(tmp_path):
    first, second = (exploration().save_explorer(tmp_path / f"{i}.html").read_bytes() for i in range(2))
    assert first == second


def test_the_policy_allows_the_page_s_own_script_alone(tmp_path):
    page = exploration().save_explorer(tmp_path / "heads.html").read_text(encoding="utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)[1]
    assert policy.startswith("default-src 'none'; script-src 'sha256-") and "unsafe" not in policy
    assert not re.search(r"https?://(?!www\.w3\.org)", page)


def test_in_a_notebook_it_is_a_widget_or_a_picture_with_a_table(monkeypatch):
    made = exploration()
    shown = made._repr_html_()
    assert shown.count("<rect") == 25 and shown.count("<tr") == 11
    import sys

    monkeypatch.setitem(sys.modules, "anywidget", None)
    monkeypatch.delitem(sys.modules, "interp.explorer.widget", raising=False)
    assert set(made._repr_mimebundle_()) == {"text/plain", "text/html"}
    with pytest.raises(ModuleNotFoundError, match="explorer"):
        made.widget()


def test_requests_are_dots_unless_asked_for(llama, tmp_path):
    secret = replace(prompt(9), tokens=("SECRET",) * 9, may_harm=True)
    found = interp.explore(llama, [secret])
    found.save(tmp_path / "kept")
    assert "SECRET" not in "".join(p.read_text(errors="replace") for p in (tmp_path / "kept").iterdir())
    assert "SECRET" not in found._repr_html_() + repr(found)
    assert interp.load_result(tmp_path / "kept").prompts[0].tokens == ("·",) * 9
    found.save(tmp_path / "asked", include_replies=True)
    assert interp.load_result(tmp_path / "asked").prompts[0].tokens == ("SECRET",) * 9


def test_a_picture_is_cut_to_its_patches(tmp_path):
    made = tiny_vision("llava")
    model = interp.load(made.hf, processor=made.processor)
    shown = picture(0, (60, 20))
    asked = model.prompt("Is the sky blue?", image=shown, answers=("No", "Yes"))
    found = interp.explore(model, [asked], pictures=[shown])
    [seen] = found.prompts
    with Image.open(io.BytesIO(base64.b64decode(seen.picture))) as cut:
        assert cut.size == (20, 20)  # the processor cuts out the middle
    assert seen.grid == asked.image.grid and seen.first_patch == asked.span("image")[0]
    np.testing.assert_allclose(seen.attention, interp.attribute(model, asked).attention, atol=1e-6)
    assert header_of(packed(found, kept_steps(found)[0]))["prompts"][0]["grid"] == list(seen.grid)
    with pytest.raises(ValueError, match="is not the one that the prompt was built with"):
        interp.explore(model, [asked], pictures=[picture(1, (60, 20))])


@pytest.mark.parametrize(
    ("text", "tokens", "shown"),
    [
        ("Is it red?", ("Is", "it", "red", "?"), "Is it red?"),  # of whole words
        ("Is it red?", ("Is", " it", " red", "?"), "Is it red?"),
        ("<i>Is it\nred?", ("<i>", "<i>", "Is", "it", "red", "?", "<answer>"), "<i><i>Is it red?<answer>"),
        ("aa a", ("a", "a", "a"), "aa a"),
        ("", ("5", "6"), " 5 6"),
    ],
)
def test_tokens_are_shown_apart_as_in_the_text(text, tokens, shown):
    asked = interp.Prompt(tuple(range(len(tokens))), tokens, text)
    assert "".join(exploring._shown_tokens(asked)) == shown


def test_turned_asks_the_model_and_says_what_it_lacks(explored):
    before = explored.turned({})
    np.testing.assert_allclose(before["before"], before["after"], atol=2e-4)
    assert list(before["answer"])[-1] == "anything else"
    changes = explored.prompts[0].changes[1, 1, SCALES.index(0.0)]
    after = explored.turned({"L1H1": 0.0})["after"]
    np.testing.assert_allclose(after, explored.prompts[0].clean * np.exp(changes), atol=2e-3)
    with pytest.raises(ValueError, match="'head 3' is no head"):
        explored.turned({"head 3": 0.0})
    with pytest.raises(ValueError, match=r"interp.explore\(model, prompts\)"):
        explored.withheld().turned({})

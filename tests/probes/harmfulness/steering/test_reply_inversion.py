"""Reply inversion: a planted belief turns No into Certainly where it should, masks are masks, controls stand beside."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch

import interp
from interp import load_result
from interp.edits.steering import add_direction
from interp.records.folder_lock import OtherRunError
from interp.records.keep import Keep
from probes.harmfulness.directions.directions import fit_directions
from probes.harmfulness.steering import inversion as module
from probes.harmfulness.steering.inversion import build_inversion_prompts, first_word, invert
from probes.harmfulness.steering.inversion_report import inversion_sentences
from probes.harmfulness.steering.inversion_result import (
    EVERY,
    MASKS,
    QUESTIONS,
    inversion_table,
    load_inversion_questions,
)
from probes.requests.requests import Request
from tests.tiny import tiny, tiny_tokenizer


def requests(kind: str, start: int, n: int) -> list[Request]:
    verb = "Break" if kind == "harmful" else "Paint"
    return [Request(f"{kind}-{i}", f"{verb} the door number {i}.", kind, "doors") for i in range(start, start + n)]


ASKED = (requests("harmful", 50, 3), requests("harmless", 50, 3))


@pytest.fixture(scope="module")
def model() -> interp.Model:
    return interp.load(tiny("llama", vocab_size=400, max_position_embeddings=1024), tokenizer=tiny_tokenizer())


@pytest.fixture(scope="module")
def planted(model):
    """On all tokens, "harmfulness" makes the first token that of Certainly rather than that of No; refusal is small."""
    fitted = fit_directions(model, requests("harmful", 0, 12), requests("harmless", 0, 12))
    prompt = build_inversion_prompts(model, ASKED[0][:1], QUESTIONS[0])[0]
    rows = model.components.unembedding.weight.detach()
    (yes,), (no,) = prompt.answers["Certainly"], prompt.answers["No"]
    vectors = fitted.harmfulness.vectors.clone()
    vectors[1:] = 10 * (rows[yes] - rows[no])
    return replace(
        fitted,
        harmfulness=replace(fitted.harmfulness, vectors=vectors),
        refusal=replace(fitted.refusal, vectors=fitted.refusal.vectors * 0.01),
    )


@pytest.fixture(scope="module")
def inverted(model, planted):
    return invert(model, planted, *ASKED, layer=3, coefficient=2, n_random=2, n_shuffled=1)


def test_every_condition_is_asked(inverted):
    frame, draws = inverted.outcomes, inverted.draws
    assert len(frame) == 6 * 3 * (1 + 2 * 2 * 2) and set(frame["said"]) <= {"Certainly", "No", "other"}
    assert len(draws) == 6 * 3 * 2 * 4 * 2 * 2 and np.isfinite(draws["margin"]).all()
    assert set(draws["control"]) == {"", "random 0", "random 1", "shuffled 0"} and set(draws["sign"]) == {"+", "-"}
    assert set(draws["positions"]) == {"before_question", "all"}
    table = inverted.to_frame()
    assert set(table["mask"]) == {"", *MASKS} and set(table["question"]) == {*(q.name for q in QUESTIONS), EVERY}
    assert len(table) == (2 + 3 * 2 * 2 * 2) * 4 and (table["n"] == 3).all()
    assert np.allclose(table[["certainly", "no", "other"]].sum(axis=1), 1)


def test_the_planted_direction_moves_the_margin_and_the_others_do_not(inverted):
    table = inverted.to_frame().set_index(["mask", "direction", "sign", "kind", "question"]).sort_index()
    everywhere = table.loc[("both on all tokens", "harmfulness")]
    plus = everywhere.loc[("+", "harmless", EVERY)]
    assert plus["change_margin_low"] > 1 and plus["margin_random"] == 0 and plus["margin_p"] == 0.25
    assert everywhere.loc[("-", "harmless", EVERY)]["change_margin_high"] < -0.5
    small = table.loc[("both on all tokens", "refusal", "+", "harmless", EVERY)]
    assert abs(small["change_margin"]) < 0.2 < plus["change_margin"]
    for name, column in (("harmfulness", "both before the question"), ("refusal", "both on all tokens")):
        pd.testing.assert_frame_equal(table.loc[("paper", name)], table.loc[(column, name)])


def test_margins_are_those_of_plain_steering(model, planted, inverted):
    """One condition against a loop over prompts, with the mask counted by hand."""
    for positions in ("before_question", "all"):
        chosen = "direction == 'refusal' and sign == '-' and question == 'harm' and positions == @positions"
        rows = inverted.outcomes.query(chosen)
        drawn = inverted.draws.query(f"{chosen} and control == ''")
        np.testing.assert_allclose(drawn["margin"], rows["margin"], atol=1e-3)
        for request, margin in zip([*ASKED[0], *ASKED[1]], rows["margin"], strict=True):
            (prompt,) = build_inversion_prompts(model, [request], QUESTIONS[0])
            with add_direction(planted.refusal, -2, 3, positions=positions).apply(model, [prompt]):
                logits = model.final_logits([prompt])[0]
            yes, no = (logits[list(prompt.answers[w])].logsumexp(-1) for w in ("Certainly", "No"))
            assert margin == pytest.approx((yes - no).item(), abs=1e-3)


def test_the_question_is_after_the_mask(model):
    for question in QUESTIONS:
        (prompt,) = build_inversion_prompts(model, ASKED[0][:1], question)
        before = prompt.span("before_question")
        assert before == tuple(range(len(before))) and before[: len(prompt.span("prefix"))] == prompt.span("prefix")
        text = "".join(prompt.tokens[i] for i in before)
        assert text.endswith(f"{ASKED[0][0].text}\n") and question.question not in text
        assert "".join(prompt.tokens[len(before) :]).startswith(question.question)
        assert set(prompt.answers) == {"Certainly", "No"} and "'Certainly'" in question.question
    assert len({q.name for q in QUESTIONS}) == 3 and all(q.after for q in QUESTIONS)


def test_replies_count_by_their_first_word(model, monkeypatch):
    for reply, word in {
        "Certainly, it": "Certainly", "'Certainly'": "Certainly", "**no**": "No", "No.": "No", "Not so": "other",
        "Nothing": "other", "": "other", "...": "other", "Yes": "other", "\nNo": "No", "Certain": "other",
    }.items():  # fmt: skip
        assert first_word(reply) == word, reply
    prompts = build_inversion_prompts(model, ASKED[0], QUESTIONS[0])
    no = prompts[0].answers["No"][0]
    asked = []

    def logits(given, batch_size=8):
        rows = torch.zeros(len(given), 400)
        rows[0, no] = 9.0  # the first prompt's reply begins with the whole word
        rows[1:, 300] = 9.0
        return rows

    monkeypatch.setattr(type(model), "final_logits", lambda self, given, batch_size=8: logits(given))
    monkeypatch.setattr(module, "generate", lambda m, p, *a, **k: [asked.append(x.id) or ["'No' it is"] for x in p])
    replies, margins = module.answers_to(model, prompts)
    assert replies == ["No", "'No' it is", "'No' it is"] and asked == [p.id for p in prompts[1:]]
    assert margins == [-9.0, 0.0, 0.0]


def table_of(flips: dict[tuple[str, str, str], str], n: int = 12, draws: int = 20, plain: str = "No") -> pd.DataFrame:
    """Harmless requests, one question, all ``plain`` unsteered; what each (direction, control, positions) says. A
    control is flipped by "+" or "-", whichever its name in ``flips`` ends with; the directions by "+"."""
    margins = {"No": -1.0, "Certainly": 1.0}
    rows, drawn, both = [], [], {"question": "harm", "kind": "harmless"}
    controls = ["", *(f"random {i}" for i in range(draws)), "shuffled 0"]
    for i, name, place in product(range(n), ("harmfulness", "refusal"), ("before_question", "all")):
        if (name, place) == ("harmfulness", "all"):
            unsteered = {"direction": "", "positions": "", "sign": "", "said": plain, "margin": margins[plain]}
            rows.append(both | unsteered | {"id": str(i), "reply": ""})
        for control, sign in product(controls, "+-"):
            said = flips.get((name, f"{control}{sign}" if control else "", place), plain)
            said = plain if not control and sign == "-" else said
            row = both | {"direction": name, "positions": place, "sign": sign, "id": str(i), "margin": margins[said]}
            drawn.append(row | {"control": control, "plain": margins[plain]})
            if not control:
                rows.append(row | {"said": said, "reply": ""})
    return inversion_table(pd.DataFrame(rows), pd.DataFrame(drawn))


def verdicts(flips, **more) -> dict[str, str]:
    said = inversion_sentences(table_of(flips, **more))
    return {mask: next(s for s in said if s.startswith(f"Mask '{mask}', +")) for mask in MASKS}


def test_the_verdict_depends_on_the_mask_and_the_controls():
    own = ("harmfulness", "", "before_question")
    found = verdicts({own: "Certainly"})
    assert "harmfulness turns No into Certainly and refusal is not shown to" in found["paper"]
    assert "refusal is not shown to, as the paper found" in found["both before the question"]
    assert "neither direction" in found["both on all tokens"]
    both = {(n, "", p): "Certainly" for n in ("harmfulness", "refusal") for p in ("before_question", "all")}
    assert all("both directions" in sentence for sentence in verdicts(both).values())
    for sign in "+-":  # one random direction of 20 does as much, with either sign: p = 2 / 22
        rival = {own: "Certainly", ("harmfulness", f"random 3{sign}", "before_question"): "Certainly"}
        assert "neither direction is shown" in verdicts(rival)["paper"]
    reverse = {("refusal", "", "all"): "Certainly"}
    assert "the reverse of the paper's finding" in verdicts(reverse)["paper"]


def test_too_few_draws_or_requests_give_no_verdict():
    own = {("harmfulness", "", "before_question"): "Certainly"}
    assert "too few draws, so nothing is said" in verdicts(own, draws=17)["paper"]
    assert "harmfulness turns" in verdicts(own, draws=18)["paper"]  # and one of shuffled labels: 19
    assert "too few, so nothing is said" in verdicts(own, n=9)["paper"]


def test_where_nothing_is_left_to_turn_the_log_odds_decide():
    found = verdicts({("harmfulness", "", "before_question"): "No"}, plain="Certainly")["paper"]
    assert "the log odds to Certainly (few No are left to turn)" in found and "neither direction" in found


def test_shares_by_hand():
    table = table_of({("harmfulness", "", "all"): "Certainly", ("harmfulness", "random 1-", "all"): "Certainly"})
    rows = table[(table["mask"] == "both on all tokens") & (table["sign"] == "+")].set_index("direction")
    own = rows.loc["harmfulness"]
    assert (own["certainly"], own["leans"], own["change_leans"], own["change_margin"]) == (1, 1, 1, 2)
    assert own["leans_random"] == 0.05 and own["leans_shuffled"] == 0 and own["leans_p"] == pytest.approx(2 / 22)
    assert own["certainly_low"] > 0.5 and own["change_leans_low"] > 0.4 and rows.loc["refusal", "change_leans"] == 0
    said = " ".join(inversion_sentences(table))
    assert "5% of 20 random directions and 0% of 1 shuffled-label directions do as much with either sign" in said


def test_questions_are_read_from_a_file(tmp_path, model):
    file = tmp_path / "released.jsonl"
    file.write_text('{"id": "r-1", "lead": "Somebody wants to {request}", "question": "Harm? Certainly or No."}\n'
                    '{"question": "Is it wrong? Certainly or No."}\n')  # fmt: skip
    first, second = load_inversion_questions(file)
    assert (first.name, first.text("x")[0]) == ("r-1", "Somebody wants to x\nHarm? Certainly or No.")
    assert second.lead == "{request}" and "released" in second.name and "released" in second.after
    assert build_inversion_prompts(model, ASKED[0][:1], second)[0].answers
    file.write_text('{"lead": "no place", "question": "Q"}\n')
    with pytest.raises(ValueError, match=r"released.*'lead' with \{request\}"):
        load_inversion_questions(file)
    file.write_text('{"lead": "{request}"}\n')
    with pytest.raises(ValueError, match="expected 'question'"):
        load_inversion_questions(file)


def test_saved_and_loaded_without_replies(inverted, tmp_path):
    inverted.save(tmp_path / "a")
    again = load_result(tmp_path / "a")
    pd.testing.assert_frame_equal(again.to_frame(), inverted.to_frame())
    assert again.statement() == inverted.statement() and again.questions == inverted.questions
    assert again.requests == tuple(r.withheld() for r in inverted.requests) and set(again.outcomes["reply"]) == {""}
    findings = inverted.to_findings()
    assert list(findings.tables) == ["Answers", "Questions"] and len(findings.figures) == 2
    assert ASKED[0][0].text not in (tmp_path / "a" / "report.html").read_text()
    assert "request" in inverted.to_findings(include_replies=True).tables["Replies"]
    with pytest.raises(KeyError, match="no figure 'scary'"):
        inverted.plot("scary")


def test_a_killed_run_goes_on(model, planted, inverted, tmp_path, monkeypatch):
    real, calls = module.answers_to, []
    settings = dict(layer=3, coefficient=2, n_random=2, n_shuffled=1, batch_size=9)

    def failing(*args, **more):
        calls.append(1)
        if len(calls) > 12:
            raise KeyboardInterrupt
        return real(*args, **more)

    monkeypatch.setattr(module, "answers_to", failing)
    with pytest.raises(KeyboardInterrupt):
        invert(model, planted, *ASKED, **settings, keep=tmp_path)
    monkeypatch.setattr(module, "answers_to", real)
    with pytest.raises(OtherRunError, match="coefficient"):
        invert(model, planted, *ASKED, **settings | dict(coefficient=1), keep=Keep(tmp_path, resume=True))
    resumed = invert(model, planted, *ASKED, **settings, keep=Keep(tmp_path, resume=True))
    said = [found.outcomes.drop(columns="reply") for found in (resumed, inverted)]
    pd.testing.assert_frame_equal(*said, rtol=1e-3, atol=1e-3)
    assert not any(resumed.outcomes["reply"])  # not asked for
    monkeypatch.setattr(module, "answers_to", None)
    loaded = invert(model, planted, *ASKED, **settings, keep=Keep(tmp_path, resume=True))
    assert loaded.provenance["run_id"] == inverted.provenance["run_id"]


def test_refusals(model, planted):
    with pytest.raises(ValueError, match=r"fitted on too.*harmful-0"):
        invert(model, planted, requests("harmful", 0, 2), ASKED[1], layer=2)
    with pytest.raises(ValueError, match=r"layer=\{'harmfulness': 9\}.*0 to 4"):
        invert(model, planted, *ASKED, layer={"harmfulness": 9, "refusal": 2})
    with pytest.raises(ValueError, match="expected a number, or one for each of"):
        invert(model, planted, *ASKED, layer={"harm": 2})
    with pytest.raises(ValueError, match="both signs are run"):
        invert(model, planted, *ASKED, layer=2, coefficient=-1)
    with pytest.raises(ValueError, match="-1 draws"):
        invert(model, planted, *ASKED, layer=2, n_random=-1)
    with pytest.raises(ValueError, match="places="):
        invert(model, planted, *ASKED, layer=2, places={"harmfulness": ["suffix"], "refusal": ["all"]})
    with pytest.raises(ValueError, match="a name of its own"):
        invert(model, planted, *ASKED, layer=2, questions=[QUESTIONS[0], QUESTIONS[0]])
    with pytest.raises(ValueError, match=r"has no \{request\}"):
        invert(model, planted, *ASKED, layer=2, questions=[replace(QUESTIONS[0], lead="A user says:")])

"""The probability that the answers hold together, in every result that rests on them; held to a plain softmax."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

import interp
from interp.models.answer_mass import measured_mass
from interp.rankings import report
from interp.reports.findings import Findings, load_findings, render
from interp.reports.mass import AnswersUnlikely, mass_of, with_mass
from probes import negative_bias
from probes.negative_bias.nas import rank_by_effect, rank_heads
from probes.questions.questions import Question
from tests.interp.prompts.test_chat_templates import THINKS
from tests.tiny import tiny, tiny_tokenizer

QUESTIONS = [Question(f"q{i}", f"Is thing {i} cold?", "Yes" if i % 2 else "No") for i in range(6)]


def saying(word: str, template: str = THINKS, bias: float = 9.0) -> interp.Model:
    """A model that says a word, whatever it is asked."""
    tokenizer = tiny_tokenizer(template)
    tokenizer.add_tokens(["<think>", "</think>", "<b>\x1b[31m"])
    hf = tiny("llama", vocab_size=420, max_position_embeddings=512)
    (token,) = tokenizer(word, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        hf.model.norm.weight.fill_(1.0)
        hf.model.embed_tokens.weight[:, 0] = 9.0
        hf.lm_head.weight[token] = 0.0
        hf.lm_head.weight[token, 0] = bias
    return interp.load(hf, tokenizer=tokenizer)


@pytest.fixture(scope="module")
def thinking() -> interp.Model:
    return saying("<think>")


@pytest.fixture(scope="module")
def answering() -> interp.Model:
    return saying("Yes")


def test_it_is_the_softmax_of_the_answers_tokens(thinking):
    prompts = [thinking.prompt(q.text, answers=("No", "Yes")) for q in QUESTIONS]
    probabilities = torch.stack([thinking.final_logits([p])[0].double().softmax(-1) for p in prompts])
    tokens = [[t for ts in p.answers.values() for t in ts] for p in prompts]
    held = [float(row[t].sum()) for t, row in zip(tokens, probabilities, strict=True)]
    found = interp.answer_mass(thinking, prompts)
    assert (found.mean, found.least) == pytest.approx((np.mean(held), np.min(held)), rel=1e-4) and found.n == 6
    assert found.rather[0] == ("'<think>'", pytest.approx(float(probabilities[:, 352].mean()), rel=1e-4))
    assert len(found.rather) == 5 and found.is_low
    some = measured_mass(thinking, prompts, most=2)
    assert some.mean == pytest.approx(np.mean([held[0], held[-1]]), rel=1e-4) and some.n == 2
    one = measured_mass(thinking, prompts, ["Yes"])
    assert one.mean < found.mean and one.words == ("Yes",)
    assert measured_mass(thinking, [thinking.prompt("Is it?")]) is None and measured_mass(thinking, []) is None


def test_a_study_that_read_all_prompts_gives_its_own_numbers(thinking, answering):
    prompts = [answering.prompt(q.text, answers=("No", "Yes")) for q in QUESTIONS]
    found = measured_mass(answering, prompts, held=[0.5, 0.7])
    assert (found.mean, found.least, found.n, found.rather) == (pytest.approx(0.6), 0.5, 2, ())
    low = measured_mass(thinking, [thinking.prompt("Is it?", answers=("No", "Yes"))], held=[0.01, 0.03])
    assert low.mean == pytest.approx(0.02) and low.rather[0][0] == "'<think>'"


def test_the_warning_says_what_would_be_said_and_how_to_mend_it(thinking):
    told = {"enable_thinking": False}
    with pytest.warns(AnswersUnlikely, match=r"hold only .*rather say '<think>' .*enable_thinking=false"):
        ranking = rank_heads(thinking, QUESTIONS, n_views=0)
    mass = mass_of(ranking.provenance)
    assert mass.is_low and mass.words == ("No", "Yes")
    assert report.statement(ranking)[1] == mass.sentence() and "&lt;think&gt;" in render(ranking.to_findings())
    with pytest.warns(AnswersUnlikely, match="close it by beginning the reply"):
        rank_heads(thinking.asking(template_arguments=told), QUESTIONS, n_views=0)
    with pytest.warns(AnswersUnlikely, match="close it by beginning the reply"):
        rank_heads(thinking.asking(chat=False), QUESTIONS, n_views=0)


def test_an_escape_of_a_token_reaches_no_terminal():
    loaded = saying("<b>\x1b[31m")
    found = measured_mass(loaded, [loaded.prompt("Is it?", answers=("No", "Yes"))])
    assert "\\x1b[31m" in found.sentence() and "\x1b" not in found.sentence()


def test_an_answering_model_is_not_warned_about(answering):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ranking = rank_by_effect(answering, QUESTIONS, n_views=0)
        scanned = interp.scan(
            answering, [answering.prompt("Is it?", answers=("No", "Yes"))], interp.ablate_each_head("zero")
        )
    assert mass_of(ranking.provenance).mean > 0.5 and scanned.answer_mass.mean > 0.5
    assert report.statement(ranking)[-1] == mass_of(ranking.provenance).sentence()
    prompts = [answering.prompt("Is it?", answers=("No", "Yes"))]
    edits = interp.ablate_each_head("zero")
    assert interp.scan(answering, prompts, edits, check=0).answer_mass is None


def test_measures_carry_it_and_so_do_their_reports(thinking, tmp_path):
    with pytest.warns(AnswersUnlikely, match="'<think>'"):
        found = negative_bias.measure(thinking, QUESTIONS, generate_tokens=0, out=tmp_path / "r")
    mass = mass_of(found.provenance)
    assert mass.mean == pytest.approx(found.value("option_mass"), rel=1e-3) and mass.n == len(QUESTIONS)
    assert found.statement()[0] == mass.sentence() and load_findings(tmp_path / "r").statement[0] == mass.sentence()
    with pytest.warns(AnswersUnlikely, match="'<think>'"):
        again = negative_bias.measure(thinking, QUESTIONS, generate_tokens=0, out=tmp_path / "r", resume=True)
    assert again.statement() == found.statement()
    with pytest.warns(AnswersUnlikely):
        ranking = rank_heads(thinking, QUESTIONS[:2], n_views=0)
        test = negative_bias.causal_test(
            thinking, QUESTIONS[2:], ranking, by=["nas"], ks=(1,), n_random=1, edits=["zero"]
        )
    assert mass_of(test.provenance).is_low and mass_of(test.provenance).sentence() in test.statement()


def test_findings_say_it_once(thinking):
    found = interp.answer_mass(thinking, [thinking.prompt("Is it?", answers=("No", "Yes"))])
    provenance = {"answer_mass": found.to_dict()}
    findings = Findings("A study", ["It was so."], {}, {}, provenance)
    sentence = mass_of(provenance).sentence()
    assert findings.statement == ["It was so.", sentence]
    assert Findings("A study", findings.statement, {}, {}, provenance).statement == findings.statement
    assert with_mass(["It was so."], {}) == ["It was so."]


def test_a_model_without_tokenizer_names_tokens_by_number():
    loaded = interp.load(tiny("llama"))
    prompt = interp.Prompt.from_token_ids([5, 6, 7], answers={"No": [5], "Yes": [7]})
    assert measured_mass(loaded, [prompt]).rather[0][0].startswith("token ")

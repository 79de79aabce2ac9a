"""Scenarios: laws on made-up answers, parity with plain answering, the wordings, resume, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import interp
from interp.records.folder_lock import OtherRunError
from interp.statistics import Estimate, difference_of, paired_share_change, wilson_share
from probes.negative_bias import scenario_study as module
from probes.negative_bias.answers import bias_measures
from probes.negative_bias.asking import answer, answers_of_prompts
from probes.negative_bias.knowledge import sort_by_knowledge
from probes.negative_bias.knowledge_result import Knowledge
from probes.negative_bias.scenario_forms import (
    ALL,
    NO_DEMONSTRATIONS,
    OPENING,
    SCENARIOS,
    YES_DEMONSTRATIONS,
    irrelevant_passages,
    join_reasoning,
)
from probes.negative_bias.scenario_statistics import Outcomes, claims_table, compute, parts_table, verdict
from probes.negative_bias.scenario_study import scenarios
from probes.questions.instructions import build_prompts
from probes.questions.open_answers import content_words
from probes.questions.questions import Question, load_questions
from tests.tiny import tiny, tiny_tokenizer

QUESTIONS = load_questions(limit=20)
QUICK = dict(n_reasoning_tokens=3, min_per_class=2, n_resamples=20)


@pytest.fixture(scope="module")
def model() -> interp.Model:
    return interp.load(tiny("llama", vocab_size=400, max_position_embeddings=2048), tokenizer=tiny_tokenizer())


@pytest.fixture(scope="module")
def knowledge(model) -> Knowledge:
    """The tiny model's own, relabelled so that every subset has both answers."""
    found = sort_by_knowledge(model, QUESTIONS, n_samples=1, max_new_tokens=2)
    labels = {q.id: ("correct", "insufficient")[i // 10] for i, q in enumerate(QUESTIONS)}
    return replace(found, labels=labels)


@pytest.fixture(scope="module")
def everything(model, knowledge):
    return scenarios(model, QUESTIONS, knowledge, **QUICK)


# ---- the numbers, from made-up answers


def outcomes(says: dict[str, list[str]], gold: list[bool], subsets: dict | None = None, odds: float = 1.0) -> Outcomes:
    """says: scenario -> "d" denies, "a" affirms, "i" abstains, "-" outside, for each question."""
    table = np.array(list(says.values())).T
    sign = np.where(table == "d", odds, np.where(table == "a", -odds, 0.0))
    n = len(gold)
    return Outcomes(
        scenarios=tuple(says),
        subsets={"all": np.ones(n, bool), **{k: np.array(v) for k, v in (subsets or {}).items()}},
        gold=np.array(gold),
        denies=table == "d",
        affirms=table == "a",
        abstains=table == "i",
        log_odds_no=sign,
        groups=tuple(map(str, range(n))),
    )


GOLD = [True, False] * 10


def numbers(made: Outcomes):
    return compute(made, n_resamples=50, confidence=0.95, seed=0)


def value(made: Outcomes, name: str, *where: int) -> float:
    return numbers(made).at(name, *where)[0]


def test_always_denying_is_one_and_always_affirming_minus_one():
    made = outcomes({"plain": ["d"] * 20, "idk": ["a"] * 20}, GOLD)
    assert value(made, "bias_level", 0, 0) == 1 and value(made, "bias_level", 0, 1) == -1
    assert value(made, "bias_change", 0, 1) == -2
    assert value(made, "accuracy", 0, 0) == 0.5


def test_right_or_half_random_answers_have_no_bias():
    right = ["a" if g else "d" for g in GOLD]
    half = ["d", "d", "a", "a"] * 5
    made = outcomes({"plain": right, "idk": half}, GOLD)
    assert value(made, "bias_level", 0, 0) == 0 == value(made, "bias_level", 0, 1)
    assert value(made, "accuracy", 0, 0) == 1


def test_numbers_agree_with_a_plain_loop():
    rng = np.random.default_rng(0)
    names = ["plain", "idk", "wrapped", "turned_round"]
    says = {name: rng.choice(list("daai-"), 40).tolist() for name in names}
    gold = (rng.random(40) < 0.5).tolist()
    mask = rng.random(40) < 0.6
    made = outcomes(says, gold, {"correct": mask, "insufficient": ~mask})
    got = numbers(made)
    for k, subset in enumerate(made.subsets.values()):
        for i, name in enumerate(names):
            rows = [(s, g) for s, g, m in zip(says[name], gold, subset, strict=True) if m and s != "i"]
            yes, no = [s for s, g in rows if g], [s for s, g in rows if not g]
            expected = yes.count("d") / len(yes) - no.count("a") / len(no)
            assert got.at("bias_level", k, i)[0] == pytest.approx(expected)
            right = yes.count("a") + no.count("d")
            assert got.at("accuracy", k, i)[0] == pytest.approx(right / len(rows))


def test_word_and_meaning_part():
    """Always the word No: denies when wrapped, affirms when turned round. Always denying: denies in both."""
    word = outcomes({"plain": ["d"] * 20, "wrapped": ["d"] * 20, "turned_round": ["a"] * 20}, GOLD)
    assert (value(word, "bias_word", 0), value(word, "bias_meaning", 0)) == (1, 0)
    assert value(word, "bias_word_over_meaning", 0) == 1
    meaning = outcomes({"plain": ["d"] * 20, "wrapped": ["d"] * 20, "turned_round": ["d"] * 20}, GOLD)
    assert (value(meaning, "bias_word", 0), value(meaning, "bias_meaning", 0)) == (0, 1)
    assert value(meaning, "bias_spread", 0) == 0 and value(word, "bias_spread", 0) == 2


def test_letter_and_content_part():
    """Always B: denies where B is No, affirms where B is Yes."""
    made = outcomes({"plain": ["d"] * 20, "multiple_choice": ["d"] * 20, "multiple_choice_reversed": ["a"] * 20}, GOLD)
    assert (value(made, "bias_letter", 0), value(made, "bias_content", 0)) == (1, 0)
    rows = parts_table(made, numbers(made))
    assert rows.set_index("part").filter(like="letter part", axis=0)["negative_bias"].tolist() == [1]


def test_abstentions_leave_the_bias_and_outside_answers_stay_in_it():
    half_out = ["d"] * 10 + ["-"] * 10
    half_abstained = ["d"] * 10 + ["i"] * 10
    made = outcomes({"plain": half_out, "idk": half_abstained}, GOLD)
    assert value(made, "bias_level", 0, 0) == 0.5 and value(made, "bias_level", 0, 1) == 1
    assert value(made, "bias_change", 0, 1) == 0.5 and value(made, "bias_idk_same", 0) == 0


def test_log_odds_do_not_saturate():
    weak, strong = outcomes({"plain": ["d"] * 20}, GOLD, odds=1.0), outcomes({"plain": ["d"] * 20}, GOLD, odds=7.0)
    assert value(weak, "bias_level", 0, 0) == value(strong, "bias_level", 0, 0)
    assert (value(weak, "odds_level", 0, 0), value(strong, "odds_level", 0, 0)) == (1, 7)


def test_differences_are_paired():
    """Two scenarios with equal answers differ by 0, within what so few pairs could hide, not within what each one's own
    interval is wide."""
    says = np.random.default_rng(1).choice(list("da"), 20).tolist()
    got = numbers(outcomes({"plain": says, "swapped_order": says}, GOLD))
    _, low, high = got.at("bias_level", 0, 1)
    change = Estimate(*got.at("bias_change", 0, 1))
    of_pairs = paired_share_change([0.0] * 10, [0.0] * 10)  # of 10 gold Yes, and of 10 gold No
    assert change == pytest.approx(difference_of(of_pairs, of_pairs))
    assert change.value == 0 and 0 < change.high - change.low < high - low


def test_the_rule_of_the_claims():
    assert verdict((-0.3, -0.4, -0.1), -1, True) == "shown"
    assert verdict((0.3, 0.1, 0.4), -1, True) == "reversed"
    assert verdict((0.3, 0.1, 0.4), 1, False) == "too few questions"
    assert verdict((0.3, np.nan, np.nan), 1, True) == "too few questions"
    assert verdict((0.0, 0.0, 0.0), 1, True) == "not shown"


def claim(made: Outcomes, contrast: str, min_per_class: int = 5):
    return claim_of(made, contrast, "all", min_per_class)


def claim_of(made: Outcomes, contrast: str, subset: str, min_per_class: int = 5):
    rows = claims_table(made, numbers(made), min_per_class)
    return rows[rows["contrast"].str.startswith(contrast) & (rows["subset"] == subset)].iloc[0]


def test_at_the_ceiling_the_log_odds_decide():
    no, turned = ["d"] * 20, ["a"] * 20
    made = outcomes({"plain": no, "wrapped": no, "turned_round": turned, "chain_of_thought": no}, GOLD, odds=1.0)
    form = claim(made, "|word part| less |meaning part|")
    assert (form.negative_bias, form.decided_by, form.verdict) == (1, "log odds", form.log_odds_verdict)
    assert claim(made, "chain of thought less plain").decided_by == "log odds"
    mixed = ["d"] * 15 + ["a"] * 5
    made = outcomes({"plain": mixed, "wrapped": mixed, "turned_round": mixed[::-1]}, GOLD)
    assert claim(made, "|word part| less |meaning part|").decided_by == "NB"


def test_claims_are_decided_by_their_interval():
    no, right = ["d"] * 20, ["a" if g else "d" for g in GOLD]
    made = outcomes({"plain": no, "relevant_passage": right, "chain_of_thought": right, "answer_prefix": no}, GOLD)
    assert claim(made, "relevant passage").verdict == "shown"
    thought = claim(made, "chain of thought less plain")
    assert (thought.verdict, thought.decided_by) == (thought.log_odds_verdict, "log odds")  # NB had no room to grow
    assert "no room to grow" in claim(made, "chain of thought less plain").note
    assert claim(made, "relevant passage", min_per_class=11).verdict == "too few questions"
    rows = claims_table(made, numbers(made), 5)
    assert not rows["contrast"].str.contains("letter|word|with that option").any()  # scenarios that were not run


def test_claims_of_the_shortcut_need_both_subsets():
    knows = np.arange(20) < 10
    says = ["a" if g else "d" for g in GOLD[:10]] + ["d"] * 10
    made = outcomes({"plain": says}, GOLD, {"correct": knows, "incorrect": knows & ~knows, "insufficient": ~knows})
    rows = claims_table(made, numbers(made), 5).set_index("contrast")
    assert rows.loc["plain: insufficient less correct knowledge", ["verdict", "negative_bias"]].tolist() == ["shown", 1]
    few = claims_table(made, numbers(made), 6).set_index("contrast")
    assert set(few["verdict"]) == {"too few questions"}


def test_what_is_insufficient_is_compared_within_domains():
    """Known questions are of a domain that is answered No with more log odds; within domains nothing differs."""
    rng = np.random.default_rng(3)
    domain = np.arange(80) % 4 // 2  # and gold answers in turn
    known = np.where(domain == 1, rng.random(80) < 0.8, rng.random(80) < 0.2)
    gold = [i % 2 == 0 for i in range(80)]
    made = outcomes({"plain": ["d"] * 80}, gold, {"correct": known, "insufficient": ~known})
    odds = (3.0 * domain + 0.5 * ~known)[:, None]
    made = replace(made, log_odds_no=odds, domains=tuple("ab"[d] for d in domain))
    got = numbers(made)
    assert got.at("odds_insufficient_minus_correct", 0)[0] < -1
    assert got.at("odds_insufficient_within", 0)[0] == pytest.approx(0.5)
    row = claim_of(made, "the same, within domains", "insufficient")
    assert (row.decided_by, row.verdict) == ("log odds", "shown")


def test_answers_outside_the_options_are_told():
    made = outcomes({"plain": ["-"] * 20, "relevant_passage": ["d"] * 20}, GOLD)
    assert "100% of the answers of plain" in claim(made, "relevant passage").note


# ---- the forms


def test_every_scenario_keeps_what_the_answer_means():
    for name, scenario in SCENARIOS.items():
        asked = scenario.ask(QUESTIONS[0], "A passage.")
        assert QUESTIONS[0].text in asked.text and asked.id == QUESTIONS[0].id
        assert (asked.answer != QUESTIONS[0].answer) == (name == "turned_round")
        text, _, _ = scenario.instruction.place(asked.text, asked.context)
        assert text.count("A passage.") == 1


def test_letters_stand_for_their_options():
    for name, no in (("multiple_choice", "B"), ("multiple_choice_reversed", "A")):
        instruction = SCENARIOS[name].instruction
        text, _, _ = instruction.place("Is it so?")
        assert instruction.negative == no and f"\n{no}: No" in text and f"\n{instruction.positive}: Yes" in text


def test_demonstrations_are_not_of_the_shipped_questions():
    shipped = {q.text for q in load_questions()}
    assert not shipped & {*YES_DEMONSTRATIONS, *NO_DEMONSTRATIONS}
    for name, n_yes in (("few_shot_balanced", 2), ("few_shot_all_yes", 4), ("few_shot_all_no", 0)):
        layout = SCENARIOS[name].instruction.layout
        assert (layout.count("Answer: Yes"), layout.count("Answer: No")) == (n_yes, 4 - n_yes)
        assert all(f"{text}\nAnswer: No" not in layout for text in YES_DEMONSTRATIONS)


def test_irrelevant_passages_share_no_word_and_come_from_another_domain():
    questions = load_questions(limit=100)
    passages = irrelevant_passages(questions, seed=1)
    domain = {q.fact: q.domain for q in questions}
    for question, passage in zip(questions, passages, strict=True):
        assert domain[passage] != question.domain
        assert not content_words(passage) & content_words(f"{question.text} {question.fact}")
    assert passages == irrelevant_passages(questions, seed=1) != irrelevant_passages(questions, seed=2)
    one_domain = [replace(q, domain="") for q in questions]
    assert len(irrelevant_passages(one_domain)) == 100
    alike = [replace(q, fact="The same words stand here.", domain=str(i)) for i, q in enumerate(questions[:3])]
    with pytest.raises(ValueError, match="none of the 2 facts of other questions"):
        irrelevant_passages(alike)


def test_reasoning_ends_with_a_full_sentence():
    assert join_reasoning("First", " one is so. Two is al") == "First one is so."
    assert join_reasoning("First", "no end") == "First no end" and join_reasoning("First", "x.") == "First x."
    assert join_reasoning("First", "") == "First"


# ---- the run


def test_plain_is_what_answer_gives(model, everything):
    plain = answer(model, QUESTIONS)
    got = everything.answers["plain"]
    np.testing.assert_allclose(got.log_probs, plain.log_probs, atol=1e-4)
    np.testing.assert_array_equal(got.top, plain.top)
    assert got.ids == plain.ids and got.groups == plain.groups and (got.gold == plain.gold).all()


def test_the_bias_is_that_of_bias_measures(model, knowledge):
    got = scenarios(model, QUESTIONS, which=["plain", "swapped_order"], channel="margin", **QUICK)
    frame = got.to_frame().set_index("scenario")
    for name, answers in got.answers.items():
        measures = bias_measures(answers, channel="margin").set_index("measure")["value"]
        assert frame.loc[name, "negative_bias"] == pytest.approx(measures["negative_bias"])
        assert frame.loc[name, "accuracy"] == pytest.approx(measures["accuracy"])
        assert frame.loc[name, "mean_p_no"] == pytest.approx(measures["mean_p_no"])
        assert frame.loc[name, "option_mass"] == pytest.approx(measures["option_mass"])


def test_turned_round_counts_the_answer_that_denies(everything):
    got = everything.answers["turned_round"]
    i = everything.outcomes.index("turned_round")
    np.testing.assert_allclose(everything.outcomes.log_odds_no[:, i], got.margin)  # "Yes, wrong" denies
    assert (got.gold != everything.outcomes.gold).all()
    rows = everything.to_frame().set_index(["subset", "scenario"])
    row = rows.loc[("all", "turned_round")]
    assert row.negative_bias_word == -row.negative_bias
    assert row.mean_p_denies == pytest.approx(np.exp(got.log_probs[:, 1]).mean())


def test_passages_stand_in_the_prompt(model):
    """The scenario gives the numbers of a question whose context is the passage."""
    with_context = [replace(q, context=f"Passage: {q.fact}") for q in QUESTIONS]
    got = scenarios(model, QUESTIONS, which=["plain", "relevant_passage"], **QUICK)
    np.testing.assert_allclose(
        got.answers["relevant_passage"].log_probs, answer(model, with_context).log_probs, atol=1e-4
    )


def test_the_answer_follows_the_reasoning(model, monkeypatch):
    monkeypatch.setattr(module, "generate", lambda model, prompts, *a, **k: [[f" {p.id}. And"] for p in prompts])
    got = scenarios(model, QUESTIONS[:4], which=["chain_of_thought", "plain"], **QUICK)
    assert got.reasoning == tuple(f"{OPENING} {q.id}." for q in QUESTIONS[:4])
    base = SCENARIOS["chain_of_thought"].instruction
    prompts = []
    for question in QUESTIONS[:4]:
        own = replace(base, reply=f"{OPENING} {question.id}. So the answer is")
        prompts += build_prompts(model, [question], own)
        assert prompts[-1].text.endswith(own.reply)
    expected = answers_of_prompts(model, prompts, QUESTIONS[:4], base)
    np.testing.assert_allclose(got.answers["chain_of_thought"].log_probs, expected.log_probs, atol=1e-4)


def test_all_scenarios_are_on_the_same_questions(everything):
    frame = everything.to_frame()
    assert set(frame["scenario"]) == set(ALL) and set(frame["subset"]) == {"all", "correct", "insufficient"}
    assert frame[frame["subset"] == "all"]["n"].eq(20).all()
    assert set(everything.examples()["said"]) <= {"Yes", "No", "A", "B", "True", "False", "I don't know", "outside"}
    assert everything.answers["idk"].log_probs.shape == (20, 3)
    assert np.isfinite(everything.answers["idk"].log_probs).all()
    claims = everything.claims()
    assert claims["claim"].nunique() == 5
    assert set(claims["verdict"]) <= {"shown", "not shown", "reversed", "too few questions", "a level, no contrast"}
    assert everything.plot().data and everything.plot("Log odds of No by scenario and knowledge").data


def test_saved_and_loaded(everything, tmp_path):
    everything.save(tmp_path / "s")
    again = interp.load_result(tmp_path / "s")
    assert again.questions == everything.questions and again.labels == everything.labels
    assert again.reasoning == everything.reasoning
    for table in ("to_frame", "parts", "claims", "examples"):
        assert getattr(again, table)().equals(getattr(everything, table)()), table
    assert "Asked plainly" in again.to_findings().statement[0]


def test_an_interrupted_run_goes_on(model, tmp_path, monkeypatch):
    settings = dict(which=["plain", "chain_of_thought"], batch_size=16, **QUICK)
    whole = scenarios(model, QUESTIONS, **settings)
    real, calls = module.answers_of_prompts, []

    def failing(*args, **more):
        calls.append(1)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return real(*args, **more)

    monkeypatch.setattr(module, "answers_of_prompts", failing)
    with pytest.raises(KeyboardInterrupt):
        scenarios(model, QUESTIONS, **settings, out=tmp_path)
    monkeypatch.setattr(module, "answers_of_prompts", real)
    with pytest.raises(FileNotFoundError, match="run the same command again: it continues"):
        interp.load_result(tmp_path)
    with pytest.raises(OtherRunError, match="which"):
        scenarios(model, QUESTIONS, **settings | {"which": ["plain"]}, out=tmp_path, resume=True)
    resumed = scenarios(model, QUESTIONS, **settings, out=tmp_path, resume=True)
    assert resumed.reasoning == whole.reasoning and resumed.to_frame().equals(whole.to_frame())
    monkeypatch.setattr(module, "answers_of_prompts", None)  # nothing is asked now
    again = scenarios(model, QUESTIONS, **settings, out=tmp_path, resume=True)
    assert again.to_frame().equals(whole.to_frame())
    with pytest.raises(FileExistsError, match="overwrite"):
        scenarios(model, QUESTIONS, **settings | {"seed": 5}, out=tmp_path)


def test_refusals(model, knowledge):
    def refused(match: str, questions=QUESTIONS, known=None, **more):
        with pytest.raises(ValueError, match=match):
            scenarios(model, questions, known, **QUICK | more)

    refused(r"scenarios \['plane'\] are not known; expected some of plain", which=["plain", "plane"])
    refused("'plain' among them", which=["idk"])
    refused("each scenario once", which=["plain", "plain"])
    refused("expected both Yes and No", [q for q in QUESTIONS if q.answer == "Yes"])
    refused("given more than once", [*QUESTIONS, QUESTIONS[0]])
    refused("1 of 20 questions have no fact", [replace(QUESTIONS[0], fact=""), *QUESTIONS[1:]])
    refused("no irrelevant passage", [replace(q, fact="One same fact.") for q in QUESTIONS], which=ALL)
    refused("demonstrations of the few_shot", [*QUESTIONS, Question("x", NO_DEMONSTRATIONS[0], "No", fact="A.")])
    refused("channel='text'", channel="text")
    refused("n_reasoning_tokens=0", n_reasoning_tokens=0)
    other = [*QUESTIONS, replace(QUESTIONS[0], id="new")]
    refused("says nothing of 1 of 21 questions: new", other, knowledge, which=["plain"])
    stranger = {**knowledge.provenance, "model": {"name": "other", "weights_sha256": "0" * 64}}
    refused("the knowledge is other's", known=replace(knowledge, provenance=stranger), which=["plain"])


def always_no(n: int, scenarios: tuple[str, ...]) -> Outcomes:
    """A model that says the No word to everything: it affirms where the question is turned round."""
    gold = np.arange(n) % 2 == 0
    turned = np.array([name == "turned_round" for name in scenarios])
    denies = np.broadcast_to(~turned, (n, len(scenarios)))
    return Outcomes(
        scenarios=scenarios,
        subsets={
            "all": np.ones(n, dtype=bool),
            "correct": np.arange(n) < n // 2,
            "insufficient": np.arange(n) >= n // 2,
        },
        gold=gold,
        denies=denies,
        affirms=~denies,
        abstains=np.zeros_like(denies),
        log_odds_no=np.random.default_rng(0).normal(1, 0.1, denies.shape),
        groups=tuple(map(str, range(n))),
    )


def test_no_interval_of_a_model_that_always_says_no_has_zero_width():
    scenarios = ("plain", "idk", "wrapped", "turned_round", "multiple_choice", "multiple_choice_reversed")
    numbers = compute(always_no(40, scenarios), n_resamples=200, confidence=0.95, seed=0)
    for name, value in numbers.value.items():
        known = np.isfinite(value)
        assert (numbers.low[name][known] < numbers.high[name][known]).all(), name
        assert (numbers.low[name][known] <= value[known]).all() and (value[known] <= numbers.high[name][known]).all(), (
            name
        )
        if name.startswith(("bias_", "accuracy")):
            assert np.nanmin(numbers.low[name]) >= -2 and np.nanmax(numbers.high[name]) <= 2, name
    nb = difference_of(wilson_share([True] * 20), wilson_share([False] * 20))  # 20 gold Yes, 20 gold No
    assert numbers.at("bias", 0, 0) == pytest.approx(tuple(nb))
    half = (1 - nb.low) / np.sqrt(2)  # of two scenarios that are alike
    assert numbers.at("bias_word", 0) == pytest.approx((1.0, 1 - half, 1.0))


def test_plain_less_plain_is_no_number():
    numbers = compute(always_no(40, ("plain", "idk")), n_resamples=50, confidence=0.95, seed=0)
    assert np.isnan(numbers.at("bias_change", 0, 0)).all() and np.isfinite(numbers.at("bias_change", 0, 1)).all()

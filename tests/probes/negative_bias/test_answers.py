"""Answers and measures: laws, slow obvious twins, planted models, and texts whose meaning is plain."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

import interp
from interp.statistics import bootstrap_interval
from probes.negative_bias.answers import (
    MEASURES,
    Answers,
    bias_measures,
    parse_reply,
    require_options_used,
)
from probes.negative_bias.asking import answer, answers_of_prompts
from probes.questions.instructions import Instruction, build_prompts
from probes.questions.questions import Question
from tests.tiny import tiny, tiny_tokenizer

UNSURE = Instruction("Answer with Yes, No or I don't know.", abstain="I don't know")


def made(gold, said, log_probs=None, replies=None, groups=None, instruction=None) -> Answers:
    n = len(gold)
    instruction = instruction or Instruction()
    if log_probs is None:
        log_probs = np.full((n, len(instruction.options)), np.log(0.25))
    names = tuple(f"q{i}" for i in range(n))
    gold = np.asarray(gold, dtype=bool)
    return Answers(
        instruction,
        names,
        gold,
        ("facts",) * n,
        tuple(groups) if groups is not None else names,
        np.asarray(log_probs, dtype=float),
        np.asarray(said),
        replies,
    )


def random_answers(seed: int, n: int = 60, **more) -> Answers:
    rng = np.random.default_rng(seed)
    log_probs = np.log(rng.dirichlet([1, 1, 1, 1], n)[:, :3])
    log_probs = np.round(log_probs * 8) / 8  # ties, exact in binary
    said = rng.integers(-1, 3, n)
    return made(rng.random(n) < 0.4, said, log_probs, instruction=UNSURE, **more)


def values(answers: Answers, channel: str = "token") -> dict[str, float]:
    return dict(bias_measures(answers, channel=channel)[["measure", "value"]].to_numpy())


def twin(answers: Answers) -> dict[str, float]:
    """The measures by loops over the examples, as their definitions say."""
    rows = list(zip(answers.gold.tolist(), answers.top.tolist(), answers.log_probs.tolist(), strict=True))
    mean = lambda xs: sum(xs) / len(xs) if xs else float("nan")  # noqa: E731
    precision = mean([g for g, s, _ in rows if s == 1])
    recall = mean([s == 1 for g, s, _ in rows if g])
    hits = sum(g and s == 1 for g, s, _ in rows)
    wrong = sum(s == 1 and not g for g, s, _ in rows), sum(g and s != 1 for g, s, _ in rows)
    bins: list[list[tuple[bool, float]]] = [[] for _ in range(10)]
    for g, s, p in rows:
        if s in (0, 1):
            confidence = np.exp(p[s]) / (np.exp(p[0]) + np.exp(p[1]))
            bins[min(int(confidence * 10), 9)].append(((s == 1) == g, confidence))
    answered = sum(map(len, bins))
    margins = {True: [], False: []}
    for g, _, p in rows:
        margins[g].append(p[1] - p[0])
    auroc = stats.mannwhitneyu(margins[True], margins[False]).statistic / len(margins[True]) / len(margins[False])
    return {
        "accuracy": mean([(s == 1 and g) or (s == 0 and not g) for g, s, _ in rows]),
        "precision": precision,
        "recall": recall,
        "f1": 2 * hits / (2 * hits + sum(wrong)),
        "precision_recall_gap": precision - recall,
        "negative_bias": mean([s == 0 for g, s, _ in rows if g]) - mean([s == 1 for g, s, _ in rows if not g]),
        "mean_p_no": mean([np.exp(p[0]) for *_, p in rows]),
        "option_mass": mean([sum(np.exp(p)) for *_, p in rows]),
        "ece": sum(abs(mean([r for r, _ in b]) - mean([c for _, c in b])) * len(b) / answered for b in bins if b),
        "auroc": auroc,
        "share_outside": mean([s == -1 for _, s, _ in rows]),
        "says_yes": mean([s == 1 for _, s, _ in rows]),
        "share_abstained": mean([s == 2 for _, s, _ in rows]),
    }


@pytest.mark.parametrize("seed", range(4))
def test_measures_are_their_definitions(seed):
    answers = random_answers(seed)
    found, expected = values(answers), twin(answers)
    assert list(found) == list(MEASURES) == list(expected)
    for name in expected:
        assert found[name] == pytest.approx(expected[name], abs=1e-12), name


def test_intervals_are_those_of_resampled_answers():
    """The weights are a short cut for the rows drawn: the same draws, one by one, through the twin."""
    groups = [f"pair {i // 2}" for i in range(60)]
    answers = random_answers(7, groups=groups)
    table = bias_measures(answers).set_index("measure")
    rng = np.random.default_rng(0)
    drawn = rng.integers(30, size=(2000, 30))
    some = [twin(answers.select([i for g in row for i in (2 * g, 2 * g + 1)])) for row in drawn.tolist()]
    low, high = np.quantile([found["negative_bias"] for found in some], [0.025, 0.975])
    ours = table.loc["negative_bias"]
    assert ours.ci_low < low + 0.02 and high - 0.02 < ours.ci_high  # Newcombe's, which is no narrower

    def gap(index: np.ndarray) -> float:
        return twin(answers.select(index.astype(int).tolist()))["precision_recall_gap"]

    ends = [float(end) for end in bootstrap_interval(gap, np.arange(60), groups=groups)]
    assert table.loc["precision_recall_gap", ["ci_low", "ci_high"]].tolist() == pytest.approx(ends, abs=1e-9)


def test_always_no_always_yes_and_chance():
    gold = np.arange(40) % 2 == 0
    assert values(made(gold, np.zeros(40, int)))["negative_bias"] == 1
    assert values(made(gold, np.ones(40, int)))["negative_bias"] == -1
    both_ways = made(gold, np.arange(40) // 2 % 2)
    assert values(both_ways)["negative_bias"] == 0 and values(both_ways)["precision_recall_gap"] == 0
    rng = np.random.default_rng(0)
    chance = bias_measures(made(rng.random(4000) < 0.5, rng.integers(0, 2, 4000))).set_index("measure")
    for name in ("negative_bias", "precision_recall_gap"):
        low, high = chance.loc[name, ["ci_low", "ci_high"]]
        assert low < 0 < high and high - low < 0.15


def test_a_perfect_model():
    gold = np.arange(40) % 4 == 0
    found = values(made(gold, gold.astype(int), np.where(np.stack([~gold, gold], 1), 0.0, -50.0)))
    assert found["accuracy"] == found["precision"] == found["recall"] == found["auroc"] == found["f1"] == 1
    assert found["negative_bias"] == found["precision_recall_gap"] == 0 and found["ece"] == pytest.approx(0, abs=1e-12)


def test_swapping_the_roles_of_the_answers_turns_the_bias_round():
    answers = random_answers(3)
    turned = replace(
        answers,
        gold=~answers.gold,
        log_probs=answers.log_probs[:, [1, 0, 2]],
        top=np.array([-1, 1, 0, 2])[answers.top + 1],
    )
    one, other = values(answers), values(turned)
    assert one["negative_bias"] == pytest.approx(-other["negative_bias"])
    for name in ("accuracy", "ece", "auroc", "share_outside", "option_mass"):
        assert one[name] == pytest.approx(other[name])


def test_an_offset_moves_the_choice_but_not_the_auroc():
    answers = random_answers(5)
    offset = replace(answers, log_probs=answers.log_probs + np.array([-1.5, 0.0, 0.0]))
    before, after = (bias_measures(a, channel="margin").set_index("measure") for a in (answers, offset))
    columns = ["value", "ci_low", "ci_high"]
    assert before.loc["auroc", columns].tolist() == pytest.approx(after.loc["auroc", columns].tolist(), abs=1e-12)
    assert after.loc["says_yes", "value"] > before.loc["says_yes", "value"] + 0.1
    assert after.loc["share_outside", "value"] == after.loc["share_abstained", "value"] == 0


def test_outside_is_wrong_and_neither_yes_nor_no():
    gold = [True, True, False, False]
    found = values(made(gold, [1, -1, -1, 0]))
    assert found["accuracy"] == 0.5 and found["share_outside"] == 0.5 and found["says_yes"] == 0.25
    assert found["precision"] == 1 and found["recall"] == 0.5 and found["negative_bias"] == 0
    table = bias_measures(made(gold, [1, -1, -1, 0])).set_index("measure")
    assert table.n[["accuracy", "precision", "recall", "ece"]].tolist() == [4, 1, 2, 2]


def test_what_is_not_defined_is_nan_and_its_n_is_given():
    never = bias_measures(made([True, False], [0, 0])).set_index("measure")
    for name in ("precision", "precision_recall_gap"):
        assert never.loc[name, ["value", "ci_low", "ci_high"]].isna().all() and never.loc[name, "n"] == 0
    assert never.loc["recall", "value"] == 0 == never.loc["f1", "value"]
    one_class = values(made([True, True], [0, 1]))
    assert np.isnan(one_class["negative_bias"]) and np.isnan(one_class["auroc"]) and one_class["recall"] == 0.5
    empty = bias_measures(made([True], [0]).select([]))
    assert empty.value.isna().all() and (empty.n == 0).all() and len(empty) == 12


def test_a_third_option_has_a_share_of_its_own():
    assert "share_abstained" not in values(made([True, False], [0, 0]))
    table = values(made([True, True, False, False], [2, 1, 2, 0], instruction=UNSURE))
    assert table["share_abstained"] == 0.5 and table["accuracy"] == 0.5 and table["negative_bias"] == 0


def test_channels():
    log_probs = np.log([[0.3, 0.2], [0.1, 0.4], [0.05, 0.01]])
    answers = made([True, True, False], [0, 1, -1], log_probs, replies=("Yes, it is.", "no", "Well, hm"))
    assert answers.said_by("token").tolist() == [0, 1, -1]
    assert answers.said_by("text").tolist() == [1, 0, -1]
    assert answers.said_by("margin").tolist() == [0, 1, 0]
    assert values(answers, "text")["recall"] == 0.5 and values(answers, "margin")["accuracy"] == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="channel='text' needs replies"):
        bias_measures(made([True], [0]), channel="text")
    with pytest.raises(ValueError, match="channel='logit'; expected 'token', 'text' or 'margin'"):
        bias_measures(answers, channel="logit")
    assert made([True], [0]).said_in_text is None


@pytest.mark.parametrize(
    ("text", "words", "expected"),
    [
        ("No", ("No", "Yes"), 0),
        (" yes, it is. No doubt.", ("No", "Yes"), 1),
        ("**YES**", ("No", "Yes"), 1),
        ("_no_", ("No", "Yes"), 0),
        ("I know nothing; note that Yesterday is past.", ("No", "Yes"), -1),
        ("It is a no-go zone", ("No", "Yes"), -1),
        ("The answer is: no.", ("No", "Yes"), 0),
        ("", ("No", "Yes"), -1),
        ("I don\u2019t  know. No.", ("No", "Yes", "I don't know"), 2),
        ("No idea", ("No", "Yes", "No idea"), 2),
        ("No, idea", ("No", "Yes", "No idea"), 0),
        ("Incorrect", ("Incorrect", "Correct"), 0),
        ("That is correct", ("Incorrect", "Correct"), 1),
        ("A", ("B", "A"), 1),
        ("(B) No", ("B", "A"), 0),
        ("A: Yes", ("B", "A"), 1),
        ("A whale is a mammal, so B.", ("B", "A"), 0),
        ("It is a fact", ("B", "A"), -1),
        ("A is correct", ("B", "A"), 1),
        ("\u65e5\u672c\u8a9e Yes", ("No", "Yes"), 1),
    ],
)
def test_parsing_replies(text, words, expected):
    assert parse_reply(text, words) == expected
    assert parse_reply(text, words[::-1]) == (len(words) - 1 - expected if expected >= 0 else -1)


def test_options_that_are_not_used_are_refused():
    require_options_used(made([True], [0]))
    rare = made([True, False], [-1, -1], np.log([[0.01, 0.02], [0.02, 0.03]]))
    with pytest.raises(ValueError, match=r"'No' and 'Yes' hold 4\.0% of the probability .* at least 10%"):
        require_options_used(rare)
    require_options_used(rare, at_least=0.01)


def test_selecting_and_the_frame():
    answers = made([True, False, True], [0, 1, -1], replies=("No", "Yes", "?"))
    assert answers.select([2, 0]).ids == ("q2", "q0") and answers.select([2, 0]).replies == ("?", "No")
    assert answers.select(answers.gold).gold.tolist() == [True, True] and len(answers.select(answers.gold)) == 2
    frame = answers.to_frame()
    assert frame.said.tolist() == ["No", "Yes", "outside"] == frame.said_in_text.tolist()
    assert frame["p(No)"].tolist() == pytest.approx([0.25] * 3) and frame.gold.tolist() == ["Yes", "No", "Yes"]
    with pytest.raises(ValueError, match="the mask has 2 entries; there are 3 answers"):
        answers.select(np.array([True, False]))


TEXTS = ["Is the sky blue?", "Can the kettle boil water without any heat on a clear day?", "Is it so?", "Can it do so?"]
QUESTIONS = [
    Question(f"t{i}", text, "Yes" if i % 2 else "No", domain="ab"[i // 2], pair=f"p{i // 2}")
    for i, text in enumerate(TEXTS)
]


@pytest.fixture(scope="module")
def model() -> interp.Model:
    return interp.load(tiny("llama", vocab_size=400, max_position_embeddings=512), tokenizer=tiny_tokenizer())


@pytest.mark.parametrize("forms", ["in_context", "both"])
def test_asking_is_plain_forward_passes(model, forms):
    answers = answer(model, QUESTIONS, UNSURE, forms=forms)
    for i, prompt in enumerate(build_prompts(model, QUESTIONS, UNSURE, forms=forms)):
        with torch.no_grad():
            p = model.hf(torch.tensor([prompt.token_ids])).logits[0, -1].softmax(-1)
        for option, word in enumerate(("No", "Yes", "I don't know")):
            expected = sum(float(p[t]) for t in prompt.answers[word])
            assert np.exp(answers.log_probs[i, option]) == pytest.approx(expected, rel=1e-4)
        hits = [o for o, word in enumerate(UNSURE.options) if int(p.argmax()) in prompt.answers[word]]
        assert answers.top[i] == (hits[0] if hits else -1)
    assert answers.gold.tolist() == [False, True, False, True] and answers.ids == ("t0", "t1", "t2", "t3")
    assert answers.domains == ("a", "a", "b", "b") and answers.groups == ("p0", "p0", "p1", "p1")


def test_the_batch_size_changes_nothing(model):
    one, many = (answer(model, QUESTIONS, generate_tokens=6, batch_size=b) for b in (1, 3))
    np.testing.assert_allclose(one.log_probs, many.log_probs, atol=1e-4)
    assert one.replies == many.replies and one.top.tolist() == many.top.tolist() and one.ids == many.ids
    assert any(one.replies)


def test_a_model_that_only_says_no(model):
    """The unembedding's row of "No" grown until nothing else is said: the first token and the text agree."""
    token = build_prompts(model, QUESTIONS)[0].answers["No"][0]
    hf = tiny("llama", vocab_size=400, max_position_embeddings=512)
    no_sayer = interp.load(hf, tokenizer=tiny_tokenizer())
    prompts = build_prompts(no_sayer, QUESTIONS)
    with torch.no_grad():
        hidden = torch.stack([hf.model(torch.tensor([p.token_ids])).last_hidden_state[0, -1] for p in prompts])
        hf.lm_head.weight[token] = 50 * torch.linalg.pinv(hidden).sum(1)  # logit 50 at every answer
    answers = answers_of_prompts(no_sayer, prompts, QUESTIONS, Instruction(), generate_tokens=1)
    for channel in ("token", "text", "margin"):
        assert values(answers, channel)["negative_bias"] == 1
    assert answers.replies == ("No",) * 4 and values(answers)["option_mass"] == pytest.approx(1, abs=1e-3)


def test_passages_make_groups_before_pairs(model):
    asked = [replace(q, context="The kettle is heated.") for q in QUESTIONS[:2]] + QUESTIONS[2:]
    groups = answer(model, asked).groups
    assert groups[0] == groups[1] and groups[0].startswith("passage ") and groups[2] == "p1"
    assert answer(model, [replace(QUESTIONS[0], pair="")]).groups == ("t0",)


def test_half_precision():
    hf = tiny("llama", torch.bfloat16, vocab_size=400, max_position_embeddings=512)
    model = interp.load(hf, tokenizer=tiny_tokenizer())
    answers = answer(model, QUESTIONS, generate_tokens=4)
    assert np.isfinite(answers.log_probs).all() and answers.log_probs.dtype == np.float64
    assert np.isfinite(bias_measures(answers).set_index("measure").value["auroc"])


def test_bad_calls_are_refused(model):
    prompts = build_prompts(model, QUESTIONS)
    with pytest.raises(ValueError, match="4 questions and 3 prompts; expected as many, and at least one"):
        answers_of_prompts(model, prompts[:3], QUESTIONS, Instruction())
    with pytest.raises(ValueError, match="0 questions and 0 prompts"):
        answer(model, [])
    with pytest.raises(ValueError, match="batch_size=0"):
        answer(model, QUESTIONS, batch_size=0)


@pytest.mark.parametrize("twins", [False, True])
@pytest.mark.parametrize("n_yes", [0, 1, 3])
def test_no_interval_leaves_what_the_measure_can_be(twins, n_yes):
    """Of a model that says No to nearly everything, with questions in twins or alone."""
    gold, top = np.arange(60) % 2 == 0, np.zeros(60, int)
    top[1 : 1 + 2 * n_yes : 2] = 1
    answers = made(gold, top)
    if twins:
        answers = replace(answers, groups=tuple(f"pair {i // 2}" for i in range(60)))
    table = bias_measures(answers).set_index("measure")
    for name, row in table.iterrows():
        least = -1 if name in ("negative_bias", "precision_recall_gap") else 0
        if np.isfinite(row["ci_low"]):
            assert least <= row["ci_low"] <= row["ci_high"] <= 1, name

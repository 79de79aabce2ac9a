"""Modulation for any model: readings and constants by hand, verdicts, what is tried; text models from end to end."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import interp
from interp.fitting.factors import largest_change
from interp.fitting.modulation import as_edit
from interp.rankings.ranking import HeadRanking
from probes.modulation.candidates import HeadScores, ModulationSettings, divided, planned, scores_of_ranking
from probes.modulation.effects import (
    OFFSET,
    UNMODULATED,
    ReadSet,
    conditions_frame,
    effects_frame,
    mcnemar_p,
    verdict_of,
)
from probes.modulation.offsets import fit_offsets, offsets_of
from probes.modulation.passes import _read, read_answers
from probes.modulation.readings import Item, ItemSet, Readings
from probes.modulation.result import RELEASED
from probes.modulation.study import modulate_items, question_items
from probes.modulation.work import require_apart
from probes.negative_bias.nas import rank_heads
from probes.questions.instructions import build_prompts
from probes.questions.questions import load_questions, split_questions
from tests.probes.modulation_tiny import HARMFUL, asked_in_text, harm, llama

WORDS = ("yes", "no", "maybe")
QUICK = ModulationSettings(
    largest=(0.5,), ks=(1,), up_down=((1.5, 0.5),), pulls=(0.001,), steps=20, learning_rate=0.1, heads=16, rounds=1,
    values=(0.0,), n_random=4,
)  # fmt: skip


def item(i: int, gold: str = "yes", **fields) -> Item:
    return Item(f"q{i}", gold, WORDS, kind="yes_no", yes="yes", **fields)


def readings(items, logits: torch.Tensor) -> Readings:
    """Of one condition, from logits [item, vocabulary] in which word j is token j."""
    rows = []
    for one, row in zip(items, logits.log_softmax(-1), strict=True):
        rows.append(_read(row, [(WORDS.index(word),) for word in one.words]))
    log_prob, top, rest = (np.array([row[i] for row in rows], dtype=np.float32) for i in range(3))
    return Readings(tuple(items), log_prob[:, None], top[:, None], rest[:, None])


def test_readings_by_hand():
    items = [item(0), item(1, "no"), item(2, "no"), item(3, "no")]
    logits = torch.tensor([[3.0, 1, 0, 2], [3.0, 1, 0, 2], [1.0, 2, 0, 5], [1.0, 4, 0, 4]])
    read = readings(items, logits)
    assert read.accuracy[:, 0].tolist() == [1, 0, 0, 1]  # a tie counts as said
    assert read.option_accuracy[:, 0].tolist() == [1, 0, 1, 1]
    assert read.says_yes[:, 0].tolist() == [1, 1, 0, 0]
    np.testing.assert_allclose(read.gold_prob[:, 0], logits.softmax(-1)[range(4), [0, 1, 1, 1]], atol=1e-6)
    open_ended = replace(items[0], options=(), yes="")
    alone = Readings((open_ended,), read.log_prob[:1, :, :1], read.top[:1, :, :1], read.rest_top[:1])
    assert np.isnan(alone.option_accuracy).all() and np.isnan(alone.says_yes).all() and alone.accuracy[0, 0] == 1
    other_case = replace(items[0], gold="Yes")
    assert other_case.words == ("Yes", "no", "maybe") and other_case.yes_at == 0 and other_case.is_closed


def test_offsets_are_what_they_would_be_in_the_logits():
    rng = np.random.default_rng(0)
    items = [item(i, WORDS[i % 3]) for i in range(30)]
    logits = torch.tensor(rng.normal(0, 2, (30, 9)), dtype=torch.float64)
    read = readings(items, logits)
    offsets = {("yes_no", "yes"): 1.5, ("yes_no", "no"): -0.7, ("yes_no", "maybe"): 0.2}
    moved = logits.clone()
    moved[:, :3] += torch.tensor([1.5, -0.7, 0.2])
    found, expected = read.with_offsets(offsets_of(items, offsets, 3)), readings(items, moved)
    for name, array in expected.arrays().items():
        np.testing.assert_allclose(found.arrays()[name], array, atol=1e-5)
    np.testing.assert_array_equal(found.accuracy, expected.accuracy)
    same = read.with_offsets(np.zeros((30, 3)))
    np.testing.assert_allclose(same.log_prob, read.log_prob, atol=1e-5)
    unknown = offsets_of([replace(items[0], kind="open")], offsets, 3)
    assert not unknown.any()  # constants of yes/no questions are not for open ones


def test_fitted_offsets_undo_a_constant():
    rng = np.random.default_rng(1)
    items = [item(i, WORDS[i % 3]) for i in range(300)]
    logits = torch.tensor(rng.normal(0, 1, (300, 6)))
    logits[range(300), [WORDS.index(i.gold) for i in items]] += 4
    biased = logits.clone()
    biased[:, 0] += 3
    read = readings(items, biased)
    offsets = fit_offsets(read, spread=10.0)
    assert offsets["yes_no", "yes"] - offsets["yes_no", "no"] == pytest.approx(-3, abs=0.4)
    put_right = read.with_offsets(offsets_of(items, offsets, 3))
    assert put_right.accuracy.mean() > read.accuracy.mean() + 0.1

    def loss(values) -> float:
        given = dict(zip(offsets, values, strict=True))
        return -float(read.with_offsets(offsets_of(items, given, 3)).log_prob[:, 0, 0].mean())

    best = np.array(list(offsets.values()))
    for i in range(3):
        for step in (-0.3, 0.3):
            assert loss(best + step * np.eye(3)[i]) > loss(best)
    few = fit_offsets(Readings.concatenated([read.rows([0])]), spread=1.0)
    assert all(abs(b) < 1 for b in few.values())  # one question moves no constant far
    assert fit_offsets(readings([replace(items[0], options=())], biased[:1])) == {}


def test_gold_that_is_not_offered_gets_no_constant():
    given = [Item("a", "red", ("blue", "green"))]
    assert offsets_of(given, {("open", "blue"): 1.0, ("open", "red"): 5.0}, 3).tolist() == [[0.0, 1.0, 0.0]]


def test_reading_is_what_the_edit_does():
    model = llama()
    given = question_items(model, asked_in_text(model, 6, 0))
    tables = [np.ones((4, 4)), np.random.default_rng(0).uniform(0, 2, (4, 4))]
    read = Readings(given.items, **read_answers(model, given, tables, 2))
    for column, table in enumerate(tables):
        with as_edit(model, table).apply(model):
            log_probs = model.final_logits(list(given.prompts)).log_softmax(-1)
        for row, one, prompt in zip(log_probs, given.items, given.prompts, strict=True):
            i = given.items.index(one)
            for j, word in enumerate(one.words):
                assert read.log_prob[i, column, j] == pytest.approx(row[prompt.answers[word][0]].item(), abs=1e-4)
            assert read.accuracy[i, column] == (int(row.argmax()) == prompt.answers[one.gold][0])
    without = ItemSet((replace(given.items[0], gold="Perhaps"),), given.prompts)
    with pytest.raises(ValueError, match=r"no tokens of the gold answer 'Perhaps'.*\['No', 'Yes'\]"):
        read_answers(model, without, tables, 3)


def test_effects_by_hand():
    items = tuple(item(i, group=f"g{i // 2}", level=("object", "attribute")[i % 2]) for i in range(40))
    said = {  # condition -> which of ten questions are right, repeated
        UNMODULATED: [1, 1, 1, 1, 1, 0, 0, 0, 0, 0],
        "top-k": [1, 1, 1, 1, 1, 1, 1, 1, 0, 0],
        "random heads 1": [1, 1, 1, 1, 0, 0, 0, 0, 0, 0],
        "random heads 2": [1, 1, 1, 1, 1, 1, 0, 0, 0, 0],
        OFFSET: [1, 1, 1, 1, 1, 1, 1, 1, 0, 0],
    }
    right = np.array(list(said.values())).T.repeat(4, axis=0)[np.random.default_rng(0).permutation(40)]
    top = np.where(right[..., None] == 1, [-0.1, -3.0, -4.0], [-3.0, -0.1, -4.0])
    tested = ReadSet("test", Readings(items, top, top, np.full(right.shape, -5.0)), tuple(said), np.ones(40, int))
    frame = effects_frame([tested])
    assert frame["level"].unique().tolist() == ["all", "object", "attribute"]
    row = frame[frame["measure"] == "accuracy"].iloc[0]
    assert (row["before"], row["after"], row["n"], row["n_groups"]) == (0.5, 0.8, 40, 20)
    assert row["change"] == pytest.approx(0.3) and 0 < row["change_low"] < 0.3 < row["change_high"]
    assert row["p_mcnemar"] == pytest.approx(2 * 0.5**12) and row["p"] < 0.01
    assert row["random_change"] == pytest.approx(0.0)
    assert row["p_random"] == pytest.approx(2 / 3)  # of 0.3, -0.1 and 0.1 the first two lie as far from the mean
    assert row["more_than_random"] == pytest.approx(0.3)
    assert row["offset_change"] == pytest.approx(0.3) and row["more_than_offset"] == 0
    assert row["more_than_offset_low"] < 0 < row["more_than_offset_high"]  # keeps a width where nothing differs
    assert verdict_of(row, 0.03) == "meets the target" and verdict_of(row, 0.4) == "helps, below the target"
    of_all = conditions_frame([tested]).query("level == 'all'").set_index("condition")
    assert of_all["accuracy_change"].round(9).to_dict() == {
        UNMODULATED: 0,
        "top-k": 0.3,
        OFFSET: 0.3,
        "random heads": 0,
    }


@pytest.mark.parametrize(
    ("change", "low", "high", "verdict"),
    [
        (0.05, 0.01, 0.09, "meets the target"),
        (0.02, 0.01, 0.03, "helps, below the target"),
        (0.05, -0.01, 0.11, "not shown to help"),
        (0.05, 0.0, 0.1, "not shown to help"),
        (0.0, -0.01, 0.02, "does not help"),
        (-0.03, -0.07, 0.01, "does not help"),
        (-0.05, -0.09, -0.01, "hurts"),
        (float("nan"),) * 3 + ("too few questions",),
    ],
)
def test_verdicts(change, low, high, verdict):
    row = {"change": change, "change_low": low, "change_high": high, "p": float("nan"), "n_groups": 20}
    assert verdict_of(row, 0.03) == verdict
    assert verdict_of(row | {"n_groups": 9}, 0.03) == "too few questions"
    assert verdict_of(row | {"p": 0.2}, 0.03) in ("does not help", "not shown to help", "too few questions")


def test_mcnemar_by_hand():
    before, after = np.array([0.0, 0, 0, 0, 0, 1, 1]), np.ones(7)
    assert mcnemar_p(after, before) == pytest.approx(2 * 0.5**5) and mcnemar_p(before, before) == 1


def test_scores_of_rankings_have_a_sign():
    measures = {"nas": np.array([[[0.2, -0.1]]]), "total_effect": np.array([[[0.5, 0.1]]])}
    ranking = HeadRanking("nas", measures, ("a",), {}, {"model": {"weights_sha256": "w"}, "run_id": "r"})
    nas = scores_of_ranking(ranking)
    np.testing.assert_allclose(nas.signed, [[-0.2, 0.1]], atol=1e-7)  # a head that looks at No is turned down
    assert nas.name == "nas, high is bad" and nas.made_on == {"a"} and nas.about["weights_sha256"] == "w"
    np.testing.assert_allclose(scores_of_ranking(ranking, "total_effect").signed, [[0.5, 0.1]], atol=1e-7)
    np.testing.assert_allclose(scores_of_ranking(ranking, high="helps").signed, [[0.2, -0.1]], atol=1e-7)
    with pytest.raises(ValueError, match="no measure 's_plus'"):
        scores_of_ranking(ranking, "s_plus")


def test_what_is_planned():
    signed = np.array([[0.02, -0.01], [0.0, 0.005]])
    scores = HeadScores("x", signed, signed, -signed)
    found = {c.name: c for c in planned("all", scores, ModulationSettings())}
    assert len(found) == 1 + 4 + 4  # four heads: k is at most 4
    np.testing.assert_allclose(found[RELEASED].factors, 1 + signed)
    assert largest_change(found["rule, largest change 0.5"].factors) == pytest.approx(0.5)
    assert found["rule, largest change 0.5"].note == "λ = 25"
    two = HeadScores("x", signed, np.abs(signed), np.abs(signed))  # S+ and S- agree on nothing
    assert {c.name for c in planned("all", two, ModulationSettings(rules=("top-k",), ks=(1,), up_down=((2, 0),)))} == {
        "top 1 by S+ and S-: up 2, down 0",
        "top 1 by D: up 2, down 0",
    }


def test_bad_settings_are_refused():
    for given, words in (
        ({"rules": ()}, "expected some of released, top-k, search"),
        ({"searches": ("random",)}, "expected 'gradient', 'coordinate', or both"),
        ({"choose_by": "loss"}, "expected 'accuracy' or 'gold_prob'"),
        ({"largest": (-1.0,)}, "none below 0"),
        ({"held_back": 1.0}, "a share between 0 and 1"),
        ({"ks": (0,)}, "must be 1 or more"),
    ):
        with pytest.raises(ValueError, match=words):
            ModulationSettings(**given)


def test_held_back_are_whole_groups():
    given = ItemSet(tuple(item(i, group=f"g{i // 3}") for i in range(12)), [None] * 12)
    part, held = divided(given, 0.25, 0)
    groups = [{i.group for i in s.items} for s in (part, held)]
    assert len(part) == 9 and len(held) == 3 and not groups[0] & groups[1]
    with pytest.raises(ValueError, match="1 picture or passage; a search needs two"):
        divided(given.at([0, 1]), 0.25, 0)


def test_items_in_two_sets_are_listed():
    def of(*marks: str) -> ItemSet:
        return ItemSet(tuple(item(i, marks=(m,) if m else ()) for i, m in enumerate(marks)), [None] * len(marks))

    require_apart({"fit": of("a", "a", "b"), "validation": of("c"), "test": of("d")}, {"a", "q9"})
    require_apart({"fit": of("a"), "validation": of("c"), "test": of("d"), "again": of("d")}, set())
    with pytest.raises(ValueError, match=r"2 questions stand.*q1 \(test; fit\); q2 \(test; validation\)"):
        require_apart({"fit": of("a", "b"), "validation": of("c"), "test": of("d", "a", "c")}, set())
    with pytest.raises(ValueError, match=r"q0 \(validation; what made the scores\)"):
        require_apart({"fit": of("a"), "validation": of("b"), "test": of("d")}, {"b"})
    with pytest.raises(ValueError, match=r"q0 \(test; fit\)"):  # without marks, by id
        require_apart({"fit": of(""), "test": of("")}, set())


@pytest.fixture(scope="module")
def harmed():
    """A text model with a planted harmful head, its questions, and a NAS ranking of its heads."""
    model = llama()
    sets = {
        name: asked_in_text(model, n, i)
        for i, (name, n) in enumerate({"fit": 32, "validation": 30, "test": 50}.items())
    }
    harm(model, 60)
    return model, sets, rank_heads(model, sets["fit"], n_views=0)


def test_a_text_model_with_a_harmful_head_is_corrected(harmed, tmp_path):
    model, sets, ranking = harmed
    of = {name: question_items(model, questions) for name, questions in sets.items()}
    said: list[str] = []
    out = tmp_path / "report"
    arguments = (model, scores_of_ranking(ranking), of["fit"], of["validation"], {"test": of["test"]})
    found = modulate_items(*arguments, settings=QUICK, out=out, say=said.append)
    best = found.best("all", found.chosen["all"])
    assert best.family == "search" and best.factors[HARMFUL] < 0.2
    row = found.to_frame().query("measure == 'accuracy'").iloc[0]
    assert row["verdict"] == "meets the target" and row["more_than_random_low"] > 0
    statement = found.statement()
    assert "it helps" in statement[0] and any("met at 2 of 2 levels" in s for s in statement[:3])
    assert any("released rule at its own λ = 1 changes no factor by more than" in s for s in statement)
    assert any("factors searched" in s for s in said) and any("min" in s for s in said)
    assert found.validation["chosen"].sum() == 1 and found.gains_on_validation

    prompts = build_prompts(model, sets["test"])  # the edit alone gives the numbers of the table
    with interp.load_edit(out / "edit").apply(model):
        tokens = model.final_logits(prompts, batch_size=16).argmax(-1).tolist()
    right = [t in p.answer_tokens("gold") for t, p in zip(tokens, prompts, strict=True)]
    assert np.mean(right) == pytest.approx(row["after"])
    assert sorted(p.name for p in out.iterdir() if p.is_dir()) == ["edit"]  # parts are cleared

    again = interp.load_result(out)
    pd.testing.assert_frame_equal(again.to_frame(), found.to_frame(), check_exact=True)
    pd.testing.assert_frame_equal(again.history, found.history, check_exact=True)
    assert again.tests[0].readings.items == found.tests[0].readings.items and again.offsets == found.offsets
    assert again.statement() == statement and again.edit.factors == found.edit.factors
    assert again.edit.model["weights_sha256"] == found.edit.model["weights_sha256"]
    assert json.loads((out / "findings.json").read_text())["provenance"]["settings"]["target"] == 0.03
    resumed = modulate_items(*arguments, settings=QUICK, out=out, resume=True)
    assert resumed.statement() == statement
    with pytest.raises(FileExistsError, match="already holds the report"):
        modulate_items(*arguments, settings=replace(QUICK, n_random=2), out=out)


def test_nas_of_the_built_in_questions_turns_heads_down():
    """NAS marks heads that look at No; the rule turns them down. A random model gains nothing, and that is said."""
    model = interp.load(llama().hf, tokenizer=llama().tokenizer)
    parts = split_questions(load_questions("builtin", limit=60), seed=1)
    ranking = rank_heads(model, parts["probe"][:10], n_views=0)
    scores = scores_of_ranking(ranking)
    settings = replace(QUICK, rules=("released", "top-k"), n_random=2)
    found = modulate_items(
        model,
        scores,
        question_items(model, parts["probe"]),
        question_items(model, parts["validation"]),
        {"test": question_items(model, parts["test"])},
        settings=settings,
    )
    looks_at_no = np.unravel_index(ranking.scores.mean(0).argmax(), (4, 4))
    assert found.best("all", "top-k").factors[looks_at_no] == 0.5
    assert found.best("all", "rule").factors[looks_at_no] < 1
    assert not found.to_frame().query("measure == 'accuracy' and level == 'all'")["verdict"].iloc[0].startswith("meets")
    assert "it helps" not in found.statement()[0] and "help" in found.statement()[0]
    assert any("not the release's D" in sentence for sentence in found.statement())


def test_bad_sets_are_refused(harmed):
    model, sets, ranking = harmed
    scores = scores_of_ranking(ranking)
    of = {name: question_items(model, questions) for name, questions in sets.items()}
    with pytest.raises(ValueError, match=r"32 questions stand.*0-\d+ \(validation; fit, what made"):
        modulate_items(model, scores, of["fit"], of["fit"], {"test": of["test"]})
    with pytest.raises(ValueError, match=r"what made the scores"):
        modulate_items(model, scores, of["test"], of["validation"], {"test": of["fit"]})
    with pytest.raises(ValueError, match="'validation' has no questions"):
        modulate_items(model, scores, of["fit"], of["validation"].at([]), {"test": of["test"]})
    with pytest.raises(ValueError, match="no test set"):
        modulate_items(model, scores, of["fit"], of["validation"], {})
    with pytest.raises(ValueError, match=r"shape \(2, 2\).*4 layers of 4 heads"):
        small = np.ones((2, 2))
        modulate_items(model, HeadScores("x", small, small, small), of["fit"], of["validation"], {"test": of["test"]})
    with pytest.raises(ValueError, match="questions of level 'logic'; scores are of"):
        modulate_items(model, {"facts": scores}, of["fit"], of["validation"], {"test": of["test"]})
    other = replace(scores, about={"weights_sha256": "0123456789abcdef"})
    with pytest.raises(ValueError, match=r"are of weights 0123456789ab.*Rank the heads of this model"):
        modulate_items(model, other, of["fit"], of["validation"], {"test": of["test"]})

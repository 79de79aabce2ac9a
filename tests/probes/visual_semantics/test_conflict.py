"""Text against picture: hints are wrong, heads that follow them are found, turning them down is a modulation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import interp
from interp import Keep, load_result
from interp.reading import LogitDifference
from probes.modulation import ModulationSettings
from probes.scenes import scene_split
from probes.visual_semantics import modulate, scene_examples
from probes.visual_semantics.conflict import ConflictHeads, rank_conflict_heads
from probes.visual_semantics.questions import Asked, conflicts
from probes.visual_semantics.questions.conflict import HINT


@pytest.fixture(scope="module")
def model() -> interp.Model:
    return interp.load("scenes-llava-tiny")


def examples(model, n=6, seed=0):
    return scene_examples(model, scene_split("test", 4, seed, 0.2))[:n]


@pytest.fixture(scope="module")
def conflict(model):
    return conflicts(examples(model))


@pytest.fixture(scope="module")
def heads(model, conflict) -> ConflictHeads:
    return rank_conflict_heads(model, conflict)


def test_every_hint_is_wrong_and_its_twin_right(conflict):
    assert len(conflict) == len(conflict.conflict) == len(conflict.agree) == 6
    for plain, wrong, right in zip(conflict.plain, conflict.conflict, conflict.agree, strict=True):
        hinted = conflict.hinted[plain.id]
        assert hinted in plain.options and hinted != plain.gold == wrong.gold == right.gold
        assert wrong.question_text == f"{HINT.format(answer=hinted)} {plain.question_text}"
        assert right.question_text == f"{HINT.format(answer=plain.gold)} {plain.question_text}"
        assert wrong.image_id == plain.image_id and wrong.prompt.image.key == plain.prompt.image.key
        if plain.kind == "yes_no":
            assert {hinted, plain.gold} == {"yes", "no"}
    assert len(conflict.both()) == 12 and len({q.id for q in conflict.both().asked}) == 12


def test_pushes_are_those_of_a_scan(model, conflict, heads):
    """One question after the other, by one pass for each head."""
    for i in (0, 5):
        hinted = conflict.hinted[conflict.plain.asked[i].id]
        for which, part in enumerate((conflict.conflict, conflict.agree, conflict.plain)):
            example = part[i]
            slow = interp.scan(
                model,
                [example.prompt],
                interp.ablate_each_head("mean_of_others"),
                metric=LogitDifference(hinted, example.gold),
                positions="text",
                method="loop",
                check=0,
            )
            np.testing.assert_allclose(heads.push[i, which].ravel(), slow.drop[0], atol=1e-3)
    ranking = heads.ranking()
    np.testing.assert_allclose(ranking.scores, heads.push[:, 0] - heads.push[:, 1], atol=1e-6)


def test_where_both_hints_say_the_same_nothing_is_followed(model):
    given = conflicts(examples(model, 4))
    same = replace(given, agree=given.conflict)
    assert np.abs(rank_conflict_heads(model, same).ranking().scores).max() == 0


def test_a_study_is_kept_and_read_back(model, conflict, heads, tmp_path):
    keep = Keep(tmp_path / "out", resume=True)
    kept = rank_conflict_heads(model, conflict, keep=keep)
    again = load_result(tmp_path / "out")
    np.testing.assert_array_equal(again.push, heads.push)
    assert again.statement() == kept.statement() and kept.to_findings().tables["Answers"].shape[0] >= 3


def test_heads_that_follow_are_turned_down_by_a_modulation(model, heads):
    validation, test = (conflicts(examples(model, 8, seed)) for seed in (1, 2))
    settings = ModulationSettings(rules=("top-k",), ks=(2,), up_down=((1.0, 0.5),), n_random=2)
    found = modulate(
        model,
        heads.ranking(),
        examples(model, 4, 3),
        validation.both(),
        {"conflict": test.conflict, "plain": test.plain},
        settings=settings,
    )
    assert {t.name for t in found.tests} == {"conflict", "plain"}
    first = heads.ranking().top(1)[["layer", "head"]].iloc[0]
    factors = found.candidates[0].factors
    assert factors[int(first["layer"]), int(first["head"])] == 0.5  # high hurts: what follows most is turned down


def planted(n: int, follows: float) -> ConflictHeads:
    rng = np.random.default_rng(0)
    asked = tuple(
        Asked(f"q{i}", "Is it?", "yes", ("yes", "no"), "object", "yes_no", image_id=f"p{i}") for i in range(n)
    )
    push = rng.normal(0, 0.1, (n, 3, 2, 2))
    push[:, 0, 1, 0] += follows
    right, given = rng.random((n, 3)) < 0.8, np.zeros((n, 3), bool)
    given[:, 1] = ~right[:, 1]
    about = {"title": "t", "settings": {}, "model": {"name": "m"}, "data": {"n": n}, "run_id": "x", "caveats": []}
    return ConflictHeads(asked, ("no",) * n, right, given, push, about)


def test_a_planted_head_is_named_and_few_questions_say_nothing():
    assert "L1H0" in planted(40, 1.0).statement()[2]
    assert planted(40, 0.0).statement()[2].startswith("0 of 4 heads")
    assert len(planted(6, 1.0).statement()) == 2 and "too few" in planted(6, 1.0).statement()[0]


def test_what_is_wrong_is_refused(model):
    given = examples(model, 2)
    first = given.asked[0]
    other = next(o for o in first.options if o != first.gold)
    with pytest.raises(ValueError, match="agrees with the picture"):
        conflicts(given, hinted={q.id: q.gold for q in given.asked})
    with pytest.raises(ValueError, match="none of its options"):
        conflicts(given, hinted={q.id: "banana" for q in given.asked})
    with pytest.raises(ValueError, match="has no answer in hinted"):
        conflicts(given, hinted={first.id: other})
    with pytest.raises(ValueError, match=r"\{answer\}"):
        conflicts(given, "It is so.")
    with pytest.raises(ValueError, match="without hinted="):
        conflicts(given, {first.id: "It is so."})
    with pytest.raises(ValueError, match="no sentence in wording"):
        conflicts(given[:1], {"another": "It is so."}, hinted={first.id: other})
    with pytest.raises(ValueError, match="no questions"):
        conflicts(given[:0])
    with pytest.raises(ValueError, match="ablation='blur'"):
        rank_conflict_heads(model, conflicts(given), ablation="blur")


def test_sentences_of_ones_own(model):
    given = examples(model, 1)
    (first,) = given.asked
    other = next(o for o in first.options if o != first.gold)
    made = conflicts(given, {first.id: "The star is blue."}, hinted={first.id: other})
    assert made.conflict.asked[0].question_text == f"The star is blue. {first.question_text}"
    assert made.agree.asked[0].question_text.startswith(HINT.format(answer=first.gold))

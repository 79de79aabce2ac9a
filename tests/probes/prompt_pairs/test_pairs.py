"""Pairs from files: every shape, what is refused, what is left out, and the study and command over them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

import interp
from interp.locating.asked import measured
from interp.reading import LogitDifference
from probes.prompt_pairs import (
    TASKS,
    PairRow,
    build_pairs,
    load_prompt_pairs,
    locate_heads,
    pair_prompts,
    written_pairs,
)
from tests.tiny import tiny, tiny_tokenizer


@pytest.fixture(scope="module")
def llama_with_words():
    return interp.load(tiny("llama", vocab_size=400), tokenizer=tiny_tokenizer())


ROWS = [
    {"clean": "a red ball", "corrupt": "a ball red", "answer": "good", "corrupt_answer": "bad"},
    {"clean": "red ball a", "corrupt": "ball a red", "answer": "bad", "corrupt_answer": "good"},
]
MIB = {
    "prompt": "Mary and John went; John gave it to",
    "choices": ["Mary", "John"],
    "answerKey": 0,
    "abc_counterfactual": {"prompt": "Ann and Tom went; Ann gave it to", "choices": ["Ann", "Tom"], "answerKey": 1},
}


def written(tmp_path, rows, name="pairs.jsonl"):
    path = tmp_path / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_every_shape_is_read(tmp_path):
    plain = load_prompt_pairs(written(tmp_path, ROWS))
    assert plain[0] == PairRow("pairs-1", "a red ball", "a ball red", "good", "bad")
    (mib,) = load_prompt_pairs(written(tmp_path, [MIB], "mib.jsonl"))
    assert (mib.answer, mib.corrupt_answer, mib.corrupt) == ("Mary", "Tom", "Ann and Tom went; Ann gave it to")
    table = tmp_path / "table.csv"
    table.write_text('clean,corrupted,correct_idx,incorrect_idx\nthe war from 17,the war from 01,"[5, 6]",7\n')
    (row,) = load_prompt_pairs(table)
    assert row.answer == (5, 6) and row.corrupt_answer == (7,) and load_prompt_pairs(written(tmp_path, ROWS), limit=1)


@pytest.mark.parametrize(
    "row, message",
    [
        (ROWS[0] | {"corrupt": "a red ball"}, "row 1.*equals the clean one"),
        (ROWS[0] | {"corrupt_answer": "good"}, "row 1.*both answers are 'good'"),
        (MIB | {"answerKey": 7}, "answerKey is 7"),
        (MIB | {"other_counterfactual": MIB["abc_counterfactual"]}, "there are 2 counterfactuals"),
        ({"clean": "a", "corrupted": "b", "correct_idx": "x", "incorrect_idx": 1}, "correct_idx is"),
    ],
)
def test_bad_rows_are_refused_by_number(tmp_path, row, message):
    with pytest.raises(ValueError, match=message):
        load_prompt_pairs(written(tmp_path, [row]))
    with pytest.raises(ValueError, match="limit=0"):
        load_prompt_pairs(written(tmp_path, ROWS), limit=0)


def of(rows):
    return [PairRow(f"row {i}", **row) for i, row in enumerate(rows)]


def test_pairs_that_say_nothing_are_left_out_and_counted(llama_with_words):
    rows = of([*ROWS, {"clean": "a red ball", "corrupt": "cat", "answer": "good", "corrupt_answer": "bad"}])
    built = build_pairs(llama_with_words, rows, answered=False)
    assert len(built.pairs) == 2 and built.left_out["unequal lengths"] == ("row 2",)
    assert "left out: 1 unequal lengths" in built.sentence()
    with pytest.raises(ValueError, match="of 1 pairs none is left: 1 unequal lengths"):
        build_pairs(llama_with_words, rows[2:])
    with pytest.raises(ValueError, match="no pairs"):
        build_pairs(llama_with_words, [])


def test_pairs_that_the_model_answers_otherwise_are_left_out(llama_with_words):
    """Of a pair and its mirror image, the model can prefer one at most."""
    turned = [
        {"clean": r["corrupt"], "corrupt": r["clean"], **{k: r[k] for k in ("answer", "corrupt_answer")}} for r in ROWS
    ]
    both = build_pairs(llama_with_words, of([*ROWS, *turned]), answered=False)
    try:
        right = build_pairs(llama_with_words, of([*ROWS, *turned]))
    except ValueError as error:
        assert "4 answered otherwise" in str(error)
    else:
        assert len(both.pairs) - len(right.pairs) == len(right.left_out["answered otherwise"]) >= 2


def test_a_study_keeps_its_ranking_and_reads_it_back(llama_with_words, tmp_path):
    ranking = locate_heads(llama_with_words, of(ROWS), answered=False, keep=interp.Keep(tmp_path / "out"))
    assert ranking.provenance["beside"][0] == "2 pairs."
    again = locate_heads(llama_with_words, of(ROWS), answered=False, keep=interp.Keep(tmp_path / "out", resume=True))
    assert (again.scores == ranking.scores).all()
    with pytest.raises(ValueError, match="expected one of auto"):
        locate_heads(llama_with_words, of(ROWS), method="best")


def test_an_answer_of_several_words_counts_them_all(llama_with_words, tmp_path):
    several = ROWS[0] | {"answer": ["good", "cat"]}
    (row,) = load_prompt_pairs(written(tmp_path, [several]))
    assert row.answer == ("good", "cat")
    (prompt,) = build_pairs(llama_with_words, [row], answered=False).pairs.clean
    assert len(prompt.answer_tokens("clean")) == 2 and len(prompt.answer_tokens("corrupt")) == 1


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("wording", [0, 1])
def test_written_pairs_are_different_and_say_different_things(task, wording):
    rows = written_pairs(task, 40, wording=wording)
    assert len({(row.clean, row.corrupt) for row in rows}) == len({row.id for row in rows}) == 40
    assert all(len(row.clean.split()) == len(row.corrupt.split()) for row in rows)
    assert all(not set(row.answer) & set(row.corrupt_answer) for row in rows if isinstance(row.answer, tuple))
    assert rows == written_pairs(task, 40, wording=wording) != written_pairs(task, 40, seed=1, wording=wording)


@pytest.mark.parametrize(
    "given, message",
    [
        ({"task": "chess"}, "expected one of"),
        ({"wording": 2}, "wording=2"),
        ({"task": "yes_no", "n": 10**4}, "ask for"),
    ],
)
def test_pairs_that_nobody_wrote_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        written_pairs(**{"task": "agreement", "n": 4} | given)


def test_a_set_of_the_first_heads_is_weighed_and_drawn(llama_with_words):
    ranking = locate_heads(llama_with_words, of(ROWS * 5), method="patch", answered=False, sets=2)
    said = " ".join(ranking.to_findings().statement)
    assert "As a set, on 10 pairs that made the ranking: 2 heads: L" in said
    assert "random sets of the same layers" in said and "smallest set" in said.lower()
    curve = ranking.provenance["sets"]["curve"]
    assert curve[0]["kept"] == 0 and curve[-1]["kept"] == curve[0]["removed"] == 1
    found = ranking.to_findings()
    assert "The first heads as a set" in found.figures and "The first heads as a set" in found.tables
    assert list(found.tables["Heads that matter only together"]["first"]) and "CPR" in str(
        found.tables["The first heads as a set"].attrs["note"]
    )
    assert "The first heads as a set" not in replace(ranking, provenance={}).to_findings().figures
    everything = llama_with_words.n_layers * llama_with_words.n_heads
    with pytest.raises(ValueError, match=f"sets={everything}; expected a number of heads below all"):
        locate_heads(llama_with_words, of(ROWS), answered=False, sets=everything)


def test_of_too_few_pairs_no_set_is_weighed(llama_with_words):
    ranking = locate_heads(llama_with_words, of(ROWS), method="patch", answered=False, sets=2)
    found = ranking.to_findings()
    assert "not weighed as a set: too few (n = 2" in " ".join(found.statement) and not found.figures


def asked(model, questions):
    return [
        model.prompt(f"is it so: {text}", answers=("bad", "good"), gold=gold, id=str(i))
        for i, (text, gold) in enumerate(questions)
    ]


def test_questions_stand_beside_questions_of_another_answer(llama_with_words):
    """The twin of its group first, else one of the nearest length; left out is what is not told apart."""
    texts = [("a red ball", "good"), ("a ball", "bad"), ("red", "good"), ("a red cat ball", "bad")]
    prompts = asked(llama_with_words, texts)
    built = pair_prompts(llama_with_words, prompts)
    clean = [p.id for p in built.pairs.clean]
    assert sorted([*clean, *built.left_out["not told apart"]]) == ["0", "1", "2", "3"]
    odds = LogitDifference("clean", "corrupt")
    for one, other in zip(built.pairs.clean, built.pairs.corrupt, strict=True):
        assert texts[int(one.id)][1] != texts[int(other.id)][1]
        assert one.gold == "clean" and other.gold == "corrupt"
        assert one.answer_tokens("clean") == llama_with_words.prompt(
            one.text, answers=(texts[int(one.id)][1],), chat=False
        ).answer_tokens(texts[int(one.id)][1])
        whole, none = (measured(llama_with_words, odds, [p]).item() for p in (one, other))
        assert whole > none
    twins = pair_prompts(llama_with_words, prompts, ["a", "b", "b", "a"])
    assert {(p.id, q.id) for p, q in zip(twins.pairs.clean, twins.pairs.corrupt, strict=True)} <= {
        *(("0", "3"), ("3", "0"), ("1", "2"), ("2", "1"))
    }
    with pytest.raises(ValueError, match="0 'bad', 2 'good'; pairs need questions of two answers"):
        pair_prompts(llama_with_words, [prompts[0], prompts[2]])


def test_pairs_of_unequal_lengths_stay_where_they_are_lined_up(llama_with_words):
    rows = of([*ROWS, {"clean": "a red ball", "corrupt": "a red cat ball", "answer": "good", "corrupt_answer": "bad"}])
    built = build_pairs(llama_with_words, rows, answered=False, align=True)
    assert len(built.pairs) == 3 and built.left_out["unequal lengths"] == ()
    assert len(built.pairs.places(2)) == len(built.pairs.clean[2]) < len(built.pairs.corrupt[2])
    assert locate_heads(llama_with_words, rows, method="patch", answered=False, align=True).n_examples == 3

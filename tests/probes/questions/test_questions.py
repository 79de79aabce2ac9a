"""Reading, sampling and splitting of yes/no questions. Every row below was invented for these tests."""

import dataclasses
import itertools
import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from probes.questions.formats import wrong_number
from probes.questions.questions import BUILTIN, Question, hash_questions, load_questions, split_questions

Write = Callable[..., Path]

PLAIN = [
    {
        "question": "Do cranes fly?",
        "answer": "Yes",
        "domain": "birds",
        "fact": None,
        "open_aliases": ["x", "y"],
    },
    {"question": "Do chairs fly?", "answer": "No", "domain": "things", "open_question": "What flies?"},
]
STRATEGY = {
    "question": "Could a kettle sink? ",
    "answer": True,
    "facts": ["A kettle is metal. ", "Metal sinks."],
}
SUM = {"question": "Ann has 7 pears and buys 11. How many now?", "answer": "18"}
GAME = {
    "passage": "Ann, Bo and Cy sit in a row. Ann sits first.",
    "question": "Who sits first?",
    "options": ["Ann", "Bo", "Cy"],
    "answer": "A",
}
BOOLQ = {
    "question": "is the tower open",
    "title": "Tower",
    "answer": True,
    "passage": "The tower opened today.",
}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes rows (or raw text) to a file in a temporary folder and returns its path."""

    def to_file(rows: Any, name: str = "mine.jsonl") -> Path:
        path = tmp_path / name
        if isinstance(rows, str):
            path.write_text(rows, encoding="utf-8")
        elif path.suffix == ".csv":
            pd.DataFrame(rows).to_csv(path, index=False)
        elif path.suffix == ".parquet":
            pd.DataFrame(rows).to_parquet(path)
        elif path.suffix == ".json":
            path.write_text(json.dumps(rows))
        else:
            path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
        return path

    return to_file


def answers(questions: list[Question]) -> Counter[str]:
    return Counter(question.answer for question in questions)


def many(yes: int, no: int, domains: int = 1) -> list[dict[str, Any]]:
    given = ["Yes"] * yes + ["No"] * no
    return [
        {"id": f"q{i}", "question": f"Is {i} lucky?", "answer": answer, "domain": f"d{i % domains}"}
        for i, answer in enumerate(given)
    ]


# --- shapes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mine.jsonl", "mine.json", "mine.csv", "mine.parquet"])
def test_plain_is_read_alike_from_every_kind_of_file(write: Write, name: str) -> None:
    rows = PLAIN
    if name.endswith(".csv"):
        rows = [row | {"open_aliases": "|".join(row.get("open_aliases", ()))} for row in PLAIN]
    first, second = load_questions(write(rows, name))
    assert first == Question("mine-1", "Do cranes fly?", "Yes", domain="birds", open_aliases=("x", "y"))
    assert second == Question("mine-2", "Do chairs fly?", "No", domain="things", open_question="What flies?")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("yes", "Yes"),
        ("NO ", "No"),
        ("True", "Yes"),
        ("false", "No"),
        ("1", "Yes"),
        (0, "No"),
        (True, "Yes"),
        (1.0, "Yes"),
    ],
)
def test_answers_are_normalised(write: Write, given: Any, expected: str) -> None:
    (question,) = load_questions(write([{"question": "Is it?", "answer": given}]))
    assert question.answer == expected


def test_answers_of_zeros_and_ones_are_not_taken_for_arithmetic(write: Write) -> None:
    rows = [{"question": "Is it?", "answer": "1"}, {"question": "Is that?", "answer": "0"}]
    assert [q.answer for q in load_questions(write(rows, "mine.csv"))] == ["Yes", "No"]


def test_columns_maps_our_names_to_the_files(write: Write) -> None:
    path = write([{"prompt": "Is it?", "gold": "no", "topic": "t"}])
    columns = {"question": "prompt", "answer": "gold", "domain": "topic"}
    assert load_questions(path, columns=columns) == [Question("mine-1", "Is it?", "No", domain="t")]
    assert load_questions(path, columns={"text": "prompt", "answer": "gold"})[0].text == "Is it?"


def test_questions_survive_being_saved_and_read(write: Write) -> None:
    questions = load_questions(write([SUM, SUM | {"question": "And 3 and 4?", "answer": "7"}]))
    saved = write([dataclasses.asdict(question) for question in questions], "saved.jsonl")
    assert load_questions(saved) == questions


def test_strategyqa_trimmed_and_original(write: Write) -> None:
    trimmed = [STRATEGY | {"id": "a1", "answer": "No"}]
    original = [STRATEGY | {"qid": "b2", "term": "kettle", "description": "a pot", "decomposition": ["What?"]}]
    expected = Question("a1", "Could a kettle sink?", "No", "strategyqa", fact="A kettle is metal. Metal sinks.")
    assert load_questions(write(trimmed)) == [expected]
    assert load_questions(write(original, "mine.json")) == [dataclasses.replace(expected, id="b2", answer="Yes")]


@pytest.mark.parametrize("answer", ["18", "7 + 11 = <<7+11=18>>18\n#### 18", "#### $18"])
def test_gsm8k_makes_twins(write: Write, answer: str) -> None:
    yes, no = load_questions(write([SUM | {"answer": answer}]))
    assert yes.text == f'{SUM["question"]} Is the answer "18"?'
    assert (yes.answer, no.answer, yes.pair, no.pair) == ("Yes", "No", "mine-1", "mine-1")
    assert no.text.startswith(SUM["question"]) and no.text != yes.text and no.id != yes.id
    assert (yes.open_question, yes.open_answer, yes.domain) == (SUM["question"], "18", "gsm8k")


def test_gsm8k_drops_thousands_separators(write: Write) -> None:
    yes, no = load_questions(write([SUM | {"answer": "so #### 1,200"}]))
    assert '"1200"' in yes.text and "," not in no.text.removeprefix(SUM["question"])


def test_ar_lsat_trimmed_makes_twins_on_the_passage(write: Write) -> None:
    yes, no = load_questions(write([GAME]))
    assert yes.text == 'Who sits first? Is the answer "Ann"?'
    assert no.text in ('Who sits first? Is the answer "Bo"?', 'Who sits first? Is the answer "Cy"?')
    assert yes.context == no.context == GAME["passage"] and yes.pair == no.pair == "mine-1"


@pytest.mark.parametrize("stem", ["The first must be", "The first must be:"])
def test_ar_lsat_sentence_to_complete(write: Write, stem: str) -> None:
    yes, _ = load_questions(write([GAME | {"question": stem}]))
    assert yes.text == 'The first must be ... Is the answer "Ann"?'


@pytest.mark.parametrize("name", ["mine.json", "mine.jsonl", "mine.parquet"])
def test_ar_lsat_nested_as_published(write: Write, name: str) -> None:
    asked = [{k: GAME[k] for k in ("question", "options", "answer")} for _ in range(2)]
    asked[1] = asked[1] | {"question": "Who is not last?", "answer": "Ann"}
    questions = load_questions(write([{"id": "p", "passage": GAME["passage"], "questions": asked}], name))
    assert [q.id for q in questions] == ["mine-1.1-yes", "mine-1.1-no", "mine-1.2-yes", "mine-1.2-no"]
    assert {q.context for q in questions} == {GAME["passage"]}
    assert questions[2].text == 'Who is not last? Is the answer "Ann"?'


@pytest.mark.parametrize("options", ["Ann|Bo|Cy", '["Ann", "Bo", "Cy"]'])
def test_ar_lsat_options_in_a_csv_cell(write: Write, options: str) -> None:
    yes, _ = load_questions(write([GAME | {"options": options, "answer": "c"}], "mine.csv"))
    assert yes.text.endswith('"Cy"?')


def test_boolq_gets_a_capital_and_a_question_mark(write: Write) -> None:
    expected = Question("mine-1", "Is the tower open?", "Yes", "boolq", context=BOOLQ["passage"])
    assert load_questions(write([BOOLQ])) == [expected]
    kept = load_questions(write([BOOLQ | {"question": "Is it USA?"}]))
    assert kept[0].text == "Is it USA?"


@pytest.mark.parametrize(
    ("given", "target", "text", "answer"),
    [
        ("Does Al lie?\nOptions:\n- Yes\n- No", "No", "Does Al lie?", "No"),
        ("Question: Al lies. Does Al lie?", "yes", "Al lies. Does Al lie?", "Yes"),
        (
            "It rains.\nIs it valid or invalid?\nOptions:\n- valid \n- invalid",
            "invalid",
            "It rains.\nIs it valid?",
            "No",
        ),
        ("not True or False is", "False", 'Is the expression "not True or False" true?', "No"),
    ],
)
def test_bbh(write: Write, given: str, target: str, text: str, answer: str) -> None:
    example = {"input": given, "target": target}
    published = load_questions(write({"canary": "none", "examples": [example]}, "riddles.json"))
    assert published == [Question("riddles-1", text, answer, domain="riddles")]
    assert load_questions(write([example], "riddles.csv")) == published


def test_format_overrides_detection(write: Write) -> None:
    path = write([STRATEGY])
    (plain,) = load_questions(path, format="plain")
    assert (plain.domain, plain.fact) == ("mine", "")


# --- wrong numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("gold", ["0", "1", "5", "8", "18", "70000", "1430", "-10", "2.50", "0.05", "999"])
def test_wrong_number_keeps_sign_decimals_and_roundness(gold: str) -> None:
    for seed in range(200):
        wrong = wrong_number(gold, random.Random(seed))
        assert float(wrong) != float(gold) and float(wrong) != 0
        assert wrong.startswith("-") == gold.startswith("-")
        assert len(wrong.partition(".")[2]) == len(gold.partition(".")[2])
        if float(gold):
            zeros = [len(n.replace(".", "")) - len(n.replace(".", "").rstrip("0")) for n in (gold, wrong)]
            assert zeros[0] == zeros[1]


def test_wrong_number_goes_up_as_often_as_down() -> None:
    up = sum(int(wrong_number("36", random.Random(seed))) > 36 for seed in range(2000))
    assert abs(up - 1000) < 4 * 2000**0.5 / 2  # four standard errors of a fair coin


def test_wrong_numbers_look_like_gold_ones() -> None:
    """Over all two-digit golds: the last digit's parity never tells, and the mean size hardly differs."""
    golds = [gold for gold in range(10, 100) for _ in range(20) if gold % 10]
    wrongs = [int(wrong_number(str(gold), random.Random(i))) for i, gold in enumerate(golds)]
    halved = [(g, w) for g, w in zip(golds, wrongs, strict=True) if w not in (g // 2, 2 * g)]
    assert all((gold - wrong) % 2 == 0 for gold, wrong in halved)
    assert 0.9 < sum(wrongs) / sum(golds) < 1.2


def test_wrong_candidate_depends_on_seed_and_item_only(write: Write) -> None:
    rows = [{"question": f"What is {i} and {i}?", "answer": str(2 * i)} for i in range(11, 41)]
    texts = {q.text for q in load_questions(write(rows))}
    assert {q.text for q in load_questions(write(rows[::-1][:10], "other.jsonl"))} <= texts
    assert {q.text for q in load_questions(write(rows), seed=1)} != texts


# --- limit ----------------------------------------------------------------------------------------------


def test_limit_is_balanced_deterministic_nested_and_in_file_order(write: Write) -> None:
    path = write(many(70, 40, domains=3))
    whole = load_questions(path)
    previous: set[str] = set()
    for limit in range(1, 111):
        drawn = load_questions(path, limit=limit, seed=3)
        assert drawn == load_questions(path, limit=limit, seed=3)
        assert len(drawn) == limit and drawn == [q for q in whole if q in drawn]
        assert answers(drawn)["No"] == min(40, limit // 2) or answers(drawn)["Yes"] == limit // 2
        assert previous <= {q.id for q in drawn}
        previous = {q.id for q in drawn}
    assert load_questions(path, limit=20, seed=4) != load_questions(path, limit=20, seed=3)


def test_limit_keeps_domains_in_proportion_and_balanced(write: Write) -> None:
    rows = [row | {"domain": "big" if i % 50 < 40 else "small"} for i, row in enumerate(many(50, 50))]
    drawn = load_questions(write(rows), limit=20)
    assert Counter((q.domain, q.answer) for q in drawn) == {
        ("big", "Yes"): 8,
        ("big", "No"): 8,
        ("small", "Yes"): 2,
        ("small", "No"): 2,
    }


def test_limit_beyond_the_file_returns_everything(write: Write) -> None:
    path = write(many(3, 1))
    assert load_questions(path, limit=4) == load_questions(path, limit=99) == load_questions(path)


@pytest.mark.parametrize("limit", [2, 7, 20])
def test_limit_keeps_pairs_together(write: Write, limit: int) -> None:
    path = write([{"question": f"What is {i} and {i}?", "answer": str(2 * i)} for i in range(11, 41)])
    drawn = load_questions(path, limit=limit)
    assert len(drawn) == 2 * (limit // 2)
    assert set(Counter(q.pair for q in drawn).values()) == {2}
    assert answers(drawn)["Yes"] == answers(drawn)["No"]
    with pytest.raises(ValueError, match=r"limit=1, .* come in pairs.* expected 2 or more"):
        load_questions(path, limit=1)


# --- splits and hash ------------------------------------------------------------------------------------


def test_splits_are_disjoint_whole_balanced_and_stratified(write: Write) -> None:
    questions = load_questions(write(many(120, 120, domains=3)))
    splits = split_questions(questions, seed=5)
    assert [len(split) for split in splits.values()] == [120, 48, 72]
    assert sorted(q.id for split in splits.values() for q in split) == sorted(q.id for q in questions)
    for split in splits.values():
        assert answers(split)["Yes"] == answers(split)["No"]
        domains = Counter((q.domain, q.answer) for q in split)
        assert max(domains.values()) - min(domains.values()) <= 1
        assert split == [q for q in questions if q in split]
    assert splits == split_questions(questions, seed=5)
    assert splits != split_questions(questions, seed=6)


def test_splits_of_small_domains_still_have_the_asked_sizes(write: Write) -> None:
    questions = load_questions(write(many(60, 60, domains=30)))  # two of each answer a domain
    splits = split_questions(questions)
    assert [len(split) for split in splits.values()] == [60, 24, 36]
    assert all(answers(split)["Yes"] == answers(split)["No"] for split in splits.values())


def test_splits_keep_pairs_and_passages_together(write: Write) -> None:
    rows = [
        GAME | {"passage": f"Passage {p}.", "question": f"Who sits at {p}{k}?"} for p in range(20) for k in range(3)
    ]
    splits = split_questions(load_questions(write(rows)), {"a": 0.5, "b": 0.5})
    contexts = [{q.context for q in split} for split in splits.values()]
    pairs = [{q.pair for q in split} for split in splits.values()]
    assert not contexts[0] & contexts[1] and not pairs[0] & pairs[1]
    assert len(splits["a"]) == len(splits["b"]) == 60


def test_twins_of_the_shipped_questions_are_never_parted() -> None:
    questions = load_questions()
    assert len({q.open_question for q in questions}) < len(questions)  # there are twins
    parts = list(split_questions(questions).values())
    for part, other in itertools.combinations(parts, 2):
        assert not {q.open_question for q in part} & {q.open_question for q in other}
    half = load_questions(limit=250)
    assert not {q.open_question for q in half} & {q.open_question for q in questions if q not in half}
    assert answers(half)["Yes"] == answers(half)["No"] == 125


@pytest.mark.parametrize("fractions", [{}, {"a": 0.5, "b": 0.4}, {"a": 1.5, "b": -0.5}, {"a": float("nan")}])
def test_fractions_that_do_not_add_up_are_refused(write: Write, fractions: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"fractions=.*expected positive numbers that add up to 1"):
        split_questions(load_questions(write(PLAIN)), fractions)


def test_empty_split_is_refused(write: Write) -> None:
    with pytest.raises(ValueError, match=r"no question left for .*: 2 questions make 1 groups.*more questions"):
        split_questions(load_questions(write([SUM])))


def test_hash_sees_every_field_and_the_order(write: Write) -> None:
    questions = load_questions(write(PLAIN))
    assert len(hash_questions(questions)) == 64
    assert hash_questions(questions) == hash_questions(load_questions(write(PLAIN, "mine.json")))
    changed = [dataclasses.replace(questions[0], fact="new"), questions[1]]
    assert len({hash_questions(some) for some in (questions, questions[::-1], changed, questions[:1])}) == 4


# --- errors ---------------------------------------------------------------------------------------------


def test_question_refuses_what_is_no_question() -> None:
    with pytest.raises(ValueError, match=r"answer='Maybe'; expected 'Yes' or 'No'"):
        Question("a", "Is it?", "Maybe")
    with pytest.raises(ValueError, match=r"text=' '; expected both to be filled in"):
        Question("a", " ", "Yes")


def test_missing_file_names_close_matches(write: Write) -> None:
    write(PLAIN, "questions_2.jsonl")
    with pytest.raises(FileNotFoundError, match=r"no file .*question_2.jsonl; .*matches: questions_2.jsonl"):
        load_questions(write(PLAIN).with_name("question_2.jsonl"))
    with pytest.raises(FileNotFoundError, match=r"expected 'builtin' or a .*Close matches: none"):
        load_questions("/no/such/folder/mine.csv")


def test_missing_builtin_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("probes.questions.questions.BUILTIN", tmp_path / "questions.jsonl")
    with pytest.raises(FileNotFoundError, match="built-in questions are missing"):
        load_questions()


@pytest.mark.parametrize(
    ("text", "name", "error"),
    [
        ("", "mine.jsonl", "the file is empty"),
        (" \n", "mine.csv", "the file is empty"),
        ("", "mine.parquet", "the file is empty"),
        ("question,answer\n", "mine.csv", "the file is empty"),
        ("[]", "mine.json", "the file is empty"),
        ("hello", "mine.txt", r"unknown extension '\.txt'; expected \.jsonl, \.json, \.csv, \.parquet"),
        (
            '{"question": "Is it?", "answer": "No"}\n\n{"question": ',
            "mine.jsonl",
            r"line 3, column 14: invalid JSON",
        ),
        ('{"a": 1}\n{"a": ', "mine.json", r"line 2, column 7: invalid JSON"),  # lines, whatever the name
        ('{"question": "Is it?", "answer": "No"}\n[1]', "mine.jsonl", r"row 2: \[1\] is not an object"),
        ("question,answer\na,b,c,d\n1,2\n1,2,3,4,5,6\n", "mine.csv", r"can't be read as \.csv"),
        ("not parquet", "mine.parquet", r"can't be read as \.parquet"),
    ],
)
def test_broken_files_are_refused(write: Write, text: str, name: str, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        load_questions(write(text, name))


def test_text_in_another_encoding_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_bytes('{"question": "Is it café?", "answer": "No"}'.encode("latin-1"))
    with pytest.raises(ValueError, match=r"can't be read .*UTF-8"):
        load_questions(path)


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        (
            [{"questions": "Is it?", "answer": "No"}],
            r"no column 'question'.*are questions, answer.*\{'question': 'quest",
        ),
        (
            [{"question": "Is it?", "label": "No"}],
            r"no column 'answer'.*are question, label.*or give format=",
        ),
        (
            [*PLAIN, {"question": "Is it?", "answer": "maybe"}],
            r"row 3 \(format 'plain'\): the answer 'maybe' is nei",
        ),
        ([{"question": "Is it?"}, PLAIN[0]], r"row 1 .*the answer None is neither"),
        ([PLAIN[0], {"question": "  ", "answer": "No"}], r"row 2 .*the question is blank"),
        (
            [{"question": ["Is it?"], "answer": "No"}],
            r"row 1 .*question is \['Is it\?'\], a list; expected text",
        ),
        ([PLAIN[0] | {"id": "a"}, PLAIN[1] | {"id": "a"}], r"row 2 .*the id 'a' is row 1's already"),
        ([PLAIN[0] | {"open_aliases": {"x": 1}}], r"row 1 .*malformed open_aliases"),
        (
            [SUM, SUM, SUM | {"answer": "some pears"}],
            r"row 3 \(format 'gsm8k'\): the answer 'some pears' is not a num",
        ),
        ([GAME | {"options": ["Ann", "Ann"]}], r"row 1 .*malformed options \['Ann', 'Ann'\]; expected"),
        ([GAME | {"options": '["Ann", '}], r"row 1 .*malformed options"),
        ([GAME | {"options": None}], r"row 1 .*malformed options"),
        ([GAME | {"answer": "D"}], r"row 1 .*'D' names none of the 3 options; expected a letter from A to C"),
        ([GAME | {"answer": 1}], r"row 1 .*'1' names none of the 3 options.*count from 0 or from 1"),
        ([GAME | {"passage": ""}], r"row 1 .*the passage is blank"),
        ([BOOLQ | {"passage": " "}], r"row 1 .*the passage is blank"),
        ([{"passage": "P.", "questions": [GAME, GAME | {"answer": "Z"}]}], r"row 1\.2 .*'Z' names none"),
        ([{"input": "Which?", "target": "(A)"}], r"row 1 .*target '\(A\)' is not Yes/No.*web_of_lies"),
    ],
)
def test_bad_rows_are_refused_with_row_and_value(write: Write, rows: list[dict[str, Any]], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        load_questions(write(rows))


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"limit": 0}, "limit=0; expected 1 or more"),
        ({"format": "gsm"}, "format='gsm'; expected one of .*Did you mean 'gsm8k'"),
        ({"columns": {"questoin": "question"}}, "'questoin'; expected one of .*Did you mean 'question'"),
        ({"columns": {"answer": "answr"}}, "'answr' as 'answer'; expected one of .*Did you mean 'answer'"),
        ({"format": "boolq"}, "no column 'passage', which format 'boolq' needs"),
    ],
)
def test_bad_arguments_are_refused(write: Write, arguments: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        load_questions(write(PLAIN), **arguments)


def test_builtin_takes_no_format_or_columns() -> None:
    with pytest.raises(ValueError, match="are for files"):
        load_questions(format="plain")


# --- the built-in set -----------------------------------------------------------------------------------


@pytest.mark.skipif(not BUILTIN.is_file(), reason="probes/data/questions.jsonl has not been written yet")
def test_builtin_set_is_large_balanced_and_unique() -> None:
    questions = load_questions()
    assert len(questions) >= 400
    assert len({q.text for q in questions}) == len({q.id for q in questions}) == len(questions)
    for domain in {q.domain for q in questions}:
        counts = answers([q for q in questions if q.domain == domain])
        assert domain and counts["Yes"] == counts["No"], (domain, counts)
    assert all(q.open_question and q.open_answer for q in questions)
    assert all(q.text.endswith("?") for q in questions)
    drawn = answers(load_questions(limit=100))
    assert drawn == {"Yes": 50, "No": 50}

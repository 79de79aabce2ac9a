"""Files of standard tasks: each shape is told by its columns, and what can't be scored is refused with its row."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from probes.questions import load_questions, load_task
from probes.questions.standard_tasks import StandardTask, TaskItem, mmlu_header
from probes.questions.task_answers import is_target, last_number, number_of

SUM = {"question": "Ann has 3 pens and buys 4. How many has she?", "answer": "3 + 4 = <<3+4=7>>7 pens.\n#### 7"}
PICK = {"question": "Which is a fruit?", "choices": ["stone", "pear", "cup", "lamp"], "answer": 1}
SORT = {"input": "Sort these words: pear apple", "target": "apple pear"}


def put(folder: Path, name: str, content) -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def lines(*rows: dict) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_each_shape_is_told_by_its_columns(tmp_path):
    sums = load_task(put(tmp_path, "sums.jsonl", lines(SUM, SUM | {"answer": "#### 1,250"}, SUM | {"answer": "$2.50"})))
    assert (sums.name, sums.format, sums.reply_tokens, sums.guessing) == ("sums", "gsm8k", 256, 0.0)
    assert [item.answer for item in sums.items] == ["7", "1250", "2.5"] and sums.items[0].id == "sums-1"
    picks = load_task(put(tmp_path, "picks.json", [PICK, PICK | {"answer": "c", "choices": ["x", "y", "z"]}]))
    assert (picks.format, picks.reply_tokens, picks.is_choice) == ("mmlu", 0, True)
    assert [item.answer for item in picks.items] == ["B", "C"] and picks.guessing == (1 / 4 + 1 / 3) / 2
    assert picks.items[1].letters == ("A", "B", "C")
    sorts = load_task(put(tmp_path, "sorting.json", {"canary": "c", "examples": [SORT, SORT | {"target": "(B)"}]}))
    assert (sorts.format, sorts.reply_tokens, sorts.guessing) == ("bbh", 64, 0.0)
    assert [item.answer for item in sorts.items] == ["apple pear", "(B)"]
    ones = load_task(put(tmp_path, "ones.jsonl", lines(SUM | {"answer": "#### 1"}, SUM | {"answer": "#### 0"})))
    assert ones.format == "gsm8k" and [item.answer for item in ones.items] == ["1", "0"]


def test_tables_with_a_header_and_without(tmp_path):
    rows = '"Which, of these, is a fruit?",stone,pear,0,0,B\n"Which ""is"" not?",a,b,c,"d, e",D\n'
    headless = load_task(put(tmp_path, "fruit.csv", rows))
    headed = load_task(put(tmp_path, "headed.csv", "question,A,B,C,D,answer\n" + rows))
    for task in (headless, headed):
        assert task.format == "mmlu" and [item.answer for item in task.items] == ["B", "D"]
        assert task.items[0].text == "Which, of these, is a fruit?" and task.items[0].choices == (
            "stone",
            "pear",
            "0",
            "0",
        )
        assert task.items[1].choices == ("a", "b", "c", "d, e")
    fewer = load_task(put(tmp_path, "fewer.csv", "question,A,B,C,D,answer\nWhich?,x,y,z,,C\n"))
    assert fewer.items[0].choices == ("x", "y", "z") and fewer.guessing == 1 / 3
    listed = load_task(put(tmp_path, "listed.csv", 'question,choices,answer\nWhich?,"[""x"", ""y""]",1\n'))
    assert listed.items[0].answer == "B"


@pytest.mark.parametrize(
    ("cells", "names"),
    [
        (["Which?", "x", "y", "B"], ["question", "A", "B", "answer"]),
        (["Which?", "x", "y", "C"], None),  # of two choices
        (["question", "A", "B", "answer"], None),
        (["answer", "question", "A", "B"], None),
        (["id", "prompt", "A", "B", "C", "D"], None),
        (["Which?", "A"], None),
        ([], None),
    ],
)
def test_a_first_row_is_a_header_or_an_item(cells, names):
    assert mmlu_header(cells) == names


def test_the_format_and_the_columns_can_be_named(tmp_path):
    odd = put(tmp_path, "odd.jsonl", lines({"problem": "1 + 0?", "answer": "1"}))
    task = load_task(odd, format="gsm8k", columns={"question": "problem"}, name="additions", max_new_tokens=9)
    assert (task.name, task.items[0].answer, task.reply_tokens) == ("additions", "1", 9)
    options = {"question": "Which?", "options": ["x", "y"], "answer": "A"}
    assert load_task(put(tmp_path, "o.jsonl", lines(options)), columns={"choices": "options"}).format == "mmlu"


def test_a_larger_limit_adds_to_the_same_items(tmp_path):
    path = put(tmp_path, "sums.jsonl", lines(*(SUM | {"answer": str(i)} for i in range(20))))
    drawn = [[item.id for item in load_task(path, limit=n, seed=3).items] for n in (4, 9, 50)]
    assert set(drawn[0]) < set(drawn[1]) < set(drawn[2]) and [len(ids) for ids in drawn] == [4, 9, 20]
    assert drawn[1] == sorted(drawn[1], key=drawn[2].index)
    assert drawn[0] != [item.id for item in load_task(path, limit=4, seed=4).items]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (PICK | {"answer": 4}, "row 2 .format 'mmlu'.: the answer 4 is the number of no choice; expected 0 to 3"),
        (PICK | {"answer": -1}, "the answer -1 names none of the 4 choices; expected a letter from A to D"),
        (PICK | {"answer": "E"}, "the answer 'E' names none of the 4 choices"),
        (PICK | {"answer": True}, "the answer True names none"),
        (PICK | {"answer": None}, "the answer None names none"),
        (PICK | {"choices": ["pear"]}, "malformed choices .*expected a list of 2 to 26 texts, none blank"),
        (PICK | {"choices": ["pear", ""]}, "malformed choices"),
        (PICK | {"choices": 3}, "malformed choices 3"),
        (PICK | {"question": " "}, "the question is blank"),
        (PICK | {"id": "nan"}, "the id is 'nan', which is a missing value"),
    ],
)
def test_a_row_of_choices_that_cannot_be_used_is_refused(tmp_path, row, message):
    with pytest.raises(ValueError, match=message):
        load_task(put(tmp_path, "picks.jsonl", lines(PICK, row)))


@pytest.mark.parametrize(
    ("rows", "format", "message"),
    [
        (
            [SUM, SUM | {"answer": "seven"}],
            None,
            "row 2 .*the answer 'seven' is not a number; expected one, or text end",
        ),
        ([SUM, SUM | {"answer": "#### seven"}], None, "row 2 .*'#### <number>'. Correct or remove"),
        ([SORT, SORT | {"target": ""}], None, "row 2 .format 'bbh'.: the target is blank"),
        ([{"question": "Is it?", "answer": "Yes"}], None, "columns question, answer, which no format fits.*mmlu, bbh"),
        ([{"question": "Is it?", "answer": "Yes"}], "mmlu", "no column 'choices', which format 'mmlu' needs"),
        ([SUM], "arc", "expected one of mmlu, bbh, gsm8k"),
        ([PICK | {"id": "a"}, PICK | {"id": "a"}], None, "the id 'a' is row 1's already"),
    ],
)
def test_files_that_cannot_be_used_are_refused(tmp_path, rows, format, message):
    with pytest.raises(ValueError, match=message):
        load_task(put(tmp_path, "task.jsonl", lines(*rows)), format=format)


def test_what_else_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"row 2 .line 2. can't be read as .csv: .*than the first row's 4, 5"):
        load_task(put(tmp_path, "ragged.csv", "Which?,x,y,A\nWhich?,x,y,z,A\n"))
    with pytest.raises(ValueError, match="no standard task is built in"):
        load_task("builtin")
    with pytest.raises(ValueError, match="limit=0; expected 1 or more items"):
        load_task(put(tmp_path, "a.jsonl", lines(SUM)), limit=0)
    with pytest.raises(FileNotFoundError, match="no file"):
        load_task(tmp_path / "none.jsonl")
    with pytest.raises(ValueError, match=r"columns of choices are A, B, D; expected A, B, ... without a gap"):
        load_task(put(tmp_path, "gap.csv", "question,A,B,D,answer\nWhich?,x,y,z,A\n"))
    item = TaskItem("a", "Which?", "A", ("x", "y"))
    with pytest.raises(ValueError, match="is read as 'gsm8k', but a has choices; expected none"):
        StandardTask("t", "gsm8k", (item,))
    with pytest.raises(ValueError, match="max_new_tokens=0; expected 1 or more"):
        StandardTask("t", "mmlu", (item,), 0)
    with pytest.raises(ValueError, match="has 0 items"):
        StandardTask("t", "mmlu", ())


def test_choices_are_no_yes_no_questions(tmp_path):
    """Answers that count choices were read as numbers of GSM8K, or 0 and 1 as No and Yes."""
    for answers in ([2, 3, 2], [0, 1, 1]):
        path = put(tmp_path, "picks.jsonl", lines(*(PICK | {"answer": answer} for answer in answers)))
        with pytest.raises(ValueError, match=r"row 1 .*no yes/no question. Ask it as it is, as a standard task"):
            load_questions(path)
    worded = put(tmp_path, "worded.jsonl", lines(PICK | {"answer": "Yes", "choices": ["Yes", "No"]}))
    assert [q.answer for q in load_questions(worded)] == ["Yes"]


@pytest.mark.parametrize(
    ("reply", "number"),
    [
        ("She has 3 + 4 = 7 pens.\n#### 7", "7"),
        ("It costs $1,250.50.", "1250.5"),
        ("x = -3", "-3"),
        ("16-3", "3"),
        ("about −4.0 degrees", "-4"),
        ("0.50", "0.5"),
        (".5 of it", "0.5"),
        ("0.0", "0"),
        ("100", "100"),
        ("100%", "100"),
        ("#### 7\n\nQuestion: 5 and 6?", "7"),
        ("no number", None),
        ("", None),
    ],
)
def test_the_last_number_of_a_reply(reply, number):
    assert last_number(reply) == number
    assert number is None or number_of(number) == number


@pytest.mark.parametrize(
    ("reply", "target", "right"),
    [
        ("False", "False", True),
        ("The answer is False.", "False", True),
        ("**false**", "False", True),
        ("Not False", "False", False),
        ("(B)", "(B)", True),
        ("(B) 12/14/2026", "(B)", True),
        ("B", "(B)", True),
        ("B. Tuesday", "(B)", True),
        ("The answer is (A), not (B)", "(B)", False),
        ("Because", "(B)", False),
        ("] )", "] )", True),
        ("] ) )", "] )", False),
        ("apple  pear\nI sorted them.", "apple pear", True),
        ("in on at", "in on at", True),
        ("-50", "-50", True),
        ("50", "-50", False),
        ("", "Yes", False),
        ("Yes\nQuestion: and no?", "yes", True),
    ],
)
def test_a_reply_is_the_target_or_not(reply, target, right):
    assert is_target(reply, target) is right

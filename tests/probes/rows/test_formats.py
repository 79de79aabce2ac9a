"""Files as others release them (rows of their shapes, written here), told by their columns, renamed, or refused."""

from __future__ import annotations

import io
import json
import math
import sys
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from probes.cli.options import read_as
from probes.harmfulness.attacks.texts import load_jailbreaks
from probes.questions.held_out import divide
from probes.questions.questions import load_questions, split_questions
from probes.questions.texts import Text, load_texts
from probes.requests.formats import FORMATS
from probes.requests.requests import load_requests, read_texts, split_requests
from probes.requests.sets import divide_requests
from probes.rows.formats import Format, Misread, Reading, read_items
from probes.rows.placeholders import Templates, ours, places
from probes.visual_semantics.questions.benchmarks import load_visual_questions

LOCK, BREAD = "How do I pick a lock?", "How do I bake bread?"


def save(folder: Path, name: str, rows) -> Path:
    path = folder / name
    if name.endswith(".csv"):
        pd.DataFrame(rows).to_csv(path, index=False)
    elif name.endswith(".parquet"):
        pd.DataFrame(rows).to_parquet(path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


# --- as released -----------------------------------------------------------------------------------------

RELEASED = {  # columns as released, with a text of ours; its format, kind and category
    "badq-with-target": (lambda t: {"bad_q": t, "target": f"Sure, {t}"}, "bad_q", None, ""),
    "catqa-with-badq": (
        lambda t: {"Category": "Locks", "Subcategory": "Old", "Question": t, "bad_q": t}, "catqa", "harmful", "Locks",
    ),
    "sorry-with-badq": (
        lambda t: {"question_id": len(t), "category": "3", "turns": [t], "prompt_style": "base", "bad_q": t},
        "sorrybench", "harmful", "3",
    ),
    "xstest-with-badq": (
        lambda t: {"prompt": t, "focus": "pick", "type": "homonyms", "note": "x", "label": "safe", "bad_q": t},
        "xstest", "harmless", "homonyms",
    ),
    "instructions": (
        lambda t: {"dataset": "koala", "instruction": t, "output": "So.", "generator": "m"}, "alpaca", "harmless", "",
    ),
    "instruction-category": (lambda t: {"instruction": t, "category": None}, "instruction", None, ""),
    "goal-alone": (lambda t: {"goal": t}, "goal", None, ""),
    "behavior-alone": (lambda t: {"Behavior": t}, "behavior", None, ""),
}  # fmt: skip


@pytest.mark.parametrize("name", RELEASED)
def test_released_requests(tmp_path, name):
    """As JSON lines called .json, as an array, as Parquet; the format that is told is the one that can be named."""
    row, form, kind, category = RELEASED[name]
    rows = [row(LOCK), row(BREAD), row("Why is the sky blue?")]
    (tmp_path / "array.json").write_text(json.dumps(rows))
    for path in (
        save(tmp_path, f"{name}.json", rows),
        tmp_path / "array.json",
        save(tmp_path, f"{name}.parquet", rows),
    ):
        found = load_requests(path, kind=kind or "harmful")
        assert [r.text for r in found] == [LOCK, BREAD, "Why is the sky blue?"], path
        assert {(r.kind, r.category) for r in found} == {(kind or "harmful", category)}
        assert load_requests(path, kind=kind or "harmful", format=form) == found
    if kind is None:
        with pytest.raises(ValueError, match=r"row 1 .*nothing says whether the request is harmful"):
            load_requests(path)


def test_turns_in_a_table(tmp_path):
    """SORRY-Bench as CSV: a list as Python or JSON writes it."""
    for cell in (f'["{LOCK}"]', f"['{LOCK}']"):
        rows = [{"question_id": 1, "category": "3", "turns": cell, "prompt_style": "base"}]
        assert load_requests(save(tmp_path, "s.csv", rows))[0].text == LOCK
    with pytest.raises(ValueError, match=r"row 1 .*turns is .\[open"):
        load_requests(save(tmp_path, "s.csv", [{"turns": "[open('x')]", "category": "3"}]))


def test_strategyqa_as_published(tmp_path):
    row = {"qid": "q1", "term": "Kettle", "description": "a pot", "question": "Can a kettle sink?", "answer": True}
    row |= {"facts": ["It is metal."], "decomposition": ["Is it metal?"], "evidence": [[[["Kettle-1"]]]]}
    (tmp_path / "train.json").write_text(json.dumps([row, row | {"qid": "q2", "answer": False}]))
    first, second = load_questions(tmp_path / "train.json")
    assert (first.id, first.answer, first.fact, second.answer) == ("q1", "Yes", "It is metal.", "No")


@pytest.mark.parametrize(("name", "level"), [("color", "attribute"), ("count", None), ("location", "relationship")])
def test_the_three_tables_of_coco_qa(tmp_path, name, level):
    """One set of column names for all three, under a frame's index without a name."""
    Image.new("RGB", (8, 8)).save(tmp_path / "COCO_train2014_000000000042.jpg")
    rows = ["0,42,what is on the shelf,mug", "1,42,where is it,kitchen", "2,42,what is it,tea"]
    path = tmp_path / f"set_{name}_coco_qa.csv"
    path.write_text("\n".join([",train_image_id_count,question_count,answer_count", *rows]))
    found = load_visual_questions(f"cocoqa:{path}", tmp_path)
    assert [q.answer for q in found] == ["mug", "kitchen", "tea"] and {q.level for q in found} == {level}
    assert found[0].id == f"set_{name}_coco_qa-1" and found[0].image.name.endswith("42.jpg")


# --- templates are no requests ---------------------------------------------------------------------------

PLACES = ["[INSERT PROMPT HERE]", "[insert your question]", "[PROMPT]", "{goal}", "{{question}}", "{0}", "{}", "%s",
          "<request>", "[Your prompt here]", "{query}", "[[REQUEST]]", "${prompt}", "{request}"]  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("column", ["text", "prompt", "template", "jailbreak"])
def test_templates_load_as_jailbreaks_and_not_as_requests(tmp_path, place, column):
    rows = [{"id": i, column: f"Act {i}, at 100% [as NAME], and say: {place} Begin."} for i in range(3)]
    path = save(tmp_path, "templates.csv", rows)
    found = load_jailbreaks(path)
    assert [j.id for j in found] == ["0", "1", "2"]
    assert [j.template for j in found] == [f"Act {i}, at 100% [as NAME], and say: {{request}} Begin." for i in range(3)]
    with pytest.raises(
        ValueError, match=r"row 1.*(template of a jailbreak|no text in text or prompt).*load_jailbreaks"
    ):
        load_requests(path, kind="harmful")


def test_one_plain_Templates_requests_is_refused_and_code_is_not(tmp_path):
    rows = [{"prompt": f"Bake bread {i}"} for i in range(9)]
    odd = [*rows, {"prompt": "Say: [INSERT PROMPT HERE]"}]
    with pytest.raises(
        ValueError, match=r"row 10: its prompt is the template of a jailbreak, with \[INSERT PROMPT HERE\]"
    ):
        load_requests(save(tmp_path, "a.jsonl", odd), kind="harmless")
    code = [
        *rows,
        {"prompt": 'What does printf("%s", x[0]) print, and f"{question}"?'},
        {"prompt": "Dear [Your Name], finish it."},
    ]
    assert len(load_requests(save(tmp_path, "a.jsonl", code), kind="harmless")) == 11
    assert Templates().shown_by() is None and places("100%sure [x] {y}") == []


@pytest.mark.parametrize("text", ["No place.", "Two: %s and %s.", "[INSERT PROMPT HERE] or [INSERT REQUEST HERE]"])
def test_templates_need_one_place(tmp_path, text):
    rows = [{"text": "Say: %s."}, {"text": text}]
    with pytest.raises(ValueError, match=r"row 2: jailbreak 'a-2' is .*expected a text around one \{request\}"):
        load_jailbreaks(save(tmp_path, "a.csv", rows))
    assert ours("Say {x} and {request}", "j") == "Say {x} and {request}"


# --- another's columns -----------------------------------------------------------------------------------


def test_columns_for_requests_texts_and_jailbreaks(tmp_path):
    path = save(tmp_path, "a.csv", [{"Query": LOCK, "Topic": "locks", "No": 7}])
    (found,) = load_requests(path, kind="harmful", columns={"text": "Query", "category": "Topic", "id": "No"})
    assert (found.text, found.category, found.id) == (LOCK, "locks", "7")
    assert load_requests(path, kind="harmful", format="goal", columns={"goal": "Query"})[0].text == LOCK
    passages = save(tmp_path, "b.csv", [{"passage": "Tea is hot.", "sort": "note"}])
    assert load_texts(passages, columns={"text": "passage", "kind": "sort"}) == [Text("b-1", "note", "Tea is hot.")]
    with pytest.raises(Misread, match=r"no column 'text'; the columns are passage, sort"):
        load_texts(passages)
    attacks = save(tmp_path, "c.csv", [{"words": "Say %s.", "sort": "persuasion"}])
    assert load_jailbreaks(attacks, columns={"template": "words", "family": "sort"})[0].template == "Say {request}."


def test_columns_for_visual_questions(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg")
    path = save(tmp_path, "p.json", [{"n": i, "image": "a.jpg", "question": "Is it?", "gold": "yes"} for i in range(3)])
    columns = {"text": "question", "label": "gold", "question_id": "n"}
    found = load_visual_questions(f"pope:{path}", tmp_path, columns=columns)
    assert [q.id for q in found] == ["p-0", "p-1", "p-2"] and found.origin["columns"] == columns
    for wrong, message in (
        ({"texts": "question"}, "'texts'; expected one of"),
        ({"text": "qestion"}, "Did you mean 'question'"),
    ):
        with pytest.raises(ValueError, match=message):
            load_visual_questions(f"pope:{path}", tmp_path, columns=wrong)


def test_visual_questions_from_standard_input(tmp_path, monkeypatch):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg")
    content = "".join(
        json.dumps({"question_id": i, "image": "a.jpg", "text": "Is it?", "label": "no"}) + "\n" for i in range(30)
    )
    (tmp_path / "stdin.jsonl").write_text(content)
    of_file = load_visual_questions(f"pope:{tmp_path / 'stdin.jsonl'}", tmp_path, sample=5, seed=2)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
    assert load_visual_questions("pope:-", tmp_path, sample=5, seed=2).questions == of_file.questions


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"txt": "Query"}, "'txt'; expected one of .*Did you mean 'text'"),
        ({"text": "query"}, "'query' as 'text'; expected one of Query, Topic.*Did you mean 'Query'"),
    ],
)
def test_columns_that_are_not_there(tmp_path, columns, message):
    with pytest.raises(ValueError, match=message):
        load_requests(save(tmp_path, "a.csv", [{"Query": LOCK, "Topic": "x"}]), kind="harmful", columns=columns)


def test_built_in_sets_take_no_columns():
    for load in (load_requests, load_questions, load_texts):
        with pytest.raises(ValueError, match=r"are for files|for files, and so are columns"):
            load(columns={"text": "x"})


def test_errors_are_worded_for_each_front_end(tmp_path):
    with pytest.raises(Misread) as caught:
        load_questions(save(tmp_path, "a.csv", [{"questions": "Is it?", "answer": "Yes"}]))
    assert "columns={'question': 'questions'}, or give format= (one of bbh" in str(caught.value)
    assert "--column question=questions, or give --format (one of bbh" in caught.value.on_command_line
    assert "columns=" not in caught.value.on_command_line and caught.value.columns == {"question": "questions"}
    with pytest.raises(Misread) as caught:
        load_questions(save(tmp_path, "a.csv", [{"question": "Is it?", "answer": "maybe", "facts": "x"}]))
    assert "a.csv, row 1" in caught.value.on_command_line and "--column answer=" in caught.value.on_command_line


def test_options_of_the_command_line():
    assert read_as("gsm8k", ["question=prompt", "answer = gold=1"]) == Reading(
        "gsm8k", {"question": "prompt", "answer": "gold=1"}
    )
    assert not read_as(None, None) and read_as(None, []).settings() == {}
    for wrong in (["question"], ["=prompt"], ["question="], ["a=b", "a=c"]):
        with pytest.raises(Exception, match=r"expected our name|given twice"):
            read_as(None, wrong)


def test_several_sources_are_read_alike_and_the_built_in_as_it_is(tmp_path):
    rows = [{"ask": f"Is {i} lucky?", "say": ("Yes", "No")[i % 2]} for i in range(40)]
    reading = Reading(columns={"question": "ask", "answer": "say"})
    sets = divide([str(save(tmp_path, "a.csv", rows)), "builtin"], reading=reading, seed=1)
    assert {q.domain for q in sets.training} > {"a"}
    bad = save(tmp_path, "bad.csv", [{"q": f"Break thing {i}.", "o": "x"} for i in range(40)])
    found = divide_requests([str(bad)], reading=Reading(columns={"text": "q"}))
    assert {r.source for r in found.all if r.is_harmful} == {"bad"} and any(r.source == "shipped" for r in found.all)


# --- which format ----------------------------------------------------------------------------------------


def test_two_formats_that_say_different_things_are_refused(tmp_path):
    rows = [
        {"goal": LOCK, "target": "Sure", "forbidden_prompt": LOCK},
        {"goal": LOCK, "target": "Sure", "forbidden_prompt": BREAD},
    ]
    message = r"row 2 .*forbidden_prompt and goal say different things.*format= \(one of strongreject, advbench\)"
    with pytest.raises(ValueError, match=message):
        load_requests(save(tmp_path, "a.jsonl", rows))
    assert [r.text for r in load_requests(tmp_path / "a.jsonl", format="advbench")] == [LOCK, LOCK]
    assert [r.text for r in load_requests(save(tmp_path, "b.jsonl", rows[:1]))] == [LOCK]
    both = save(tmp_path, "c.jsonl", [{"text": LOCK, "prompt": BREAD}])
    with pytest.raises(ValueError, match="text and prompt say different things"):
        load_requests(both, kind="harmful")
    assert load_requests(both, kind="harmful", columns={"text": "prompt"})[0].text == BREAD


def test_a_kind_that_contradicts_the_format_is_refused(tmp_path):
    row = {"goal": LOCK, "target": "Sure", "kind": "harmless"}
    with pytest.raises(ValueError, match="its kind is 'harmless', but a row of this format is harmful"):
        load_requests(save(tmp_path, "a.jsonl", [row]))
    assert load_requests(save(tmp_path, "a.jsonl", [row | {"kind": "unsafe"}]))[0].is_harmful


def test_columns_of_one_name_up_to_case_are_refused(tmp_path):
    with pytest.raises(ValueError, match="row 1: the columns Prompt, prompt have two of one name"):
        load_requests(save(tmp_path, "a.jsonl", [{"Prompt": LOCK, "prompt": BREAD}]), kind="harmful")


def test_a_file_that_fits_nothing_is_refused_with_its_columns(tmp_path):
    form = Format("pairs", ("left", "right"), lambda row, key, seed: [])
    with pytest.raises(
        Misread, match=r"has the columns a, b, which no format fits\. Give format= \(one of pairs, other\)"
    ):
        read_items(save(tmp_path, "a.csv", [{"a": 1, "b": 2}]), {"pairs": form, "other": form}, lambda *_: None)


def test_adding_a_format_is_one_entry(tmp_path, monkeypatch):
    form = Format(
        "mine", ("wish",), lambda row, key, seed: [{"id": key, "text": row["wish"], "kind": "harmless"}], "wish"
    )
    monkeypatch.setitem(FORMATS, "mine", form)
    (found,) = load_requests(save(tmp_path, "a.csv", [{"wish": BREAD}]))
    assert (found.text, found.source) == (BREAD, "mine")


# --- ids, pairs and what is missing ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "a.csv"])
@pytest.mark.parametrize("missing", [None, math.nan])
def test_missing_pairs_make_no_twins(tmp_path, name, missing):
    optional = dict.fromkeys(("context", "pair", "fact", "open_question", "id"), missing)
    rows = [{"question": f"Is {i} lucky?", "answer": ("Yes", "No")[i % 2]} | optional for i in range(12)]
    questions = load_questions(save(tmp_path, name, rows))
    assert len({q.group for q in questions}) == len({q.id for q in questions}) == 12
    assert sum(map(len, split_questions(questions).values())) == 12
    asked = [{"text": f"Bake {i} loaves", "pair": missing, "category": missing, "id": missing} for i in range(4)]
    requests = load_requests(save(tmp_path, name, asked), kind="harmless")
    assert [len(part) for part in split_requests(requests, {"a": 0.5, "b": 0.5}).values()] == [2, 2]


@pytest.mark.parametrize("column", ["pair", "context", "open_question", "id"])
def test_missing_values_written_as_text_are_refused_where_they_would_join(tmp_path, column):
    rows = [{"question": f"Is {i} lucky?", "answer": "Yes", column: "nan"} for i in range(2)]
    with pytest.raises(ValueError, match=f"row 1 .*the {column} is 'nan', which is a missing value"):
        load_questions(save(tmp_path, "a.csv", rows))


def test_answers_that_say_na_are_text(tmp_path):
    """Of an open question, "None" is an answer."""
    row = {"question": "Is one left?", "answer": "No", "open_question": "Which is left?", "open_answer": "None"}
    assert load_questions(save(tmp_path, "a.csv", [row]))[0].open_answer == "None"


def test_numbers_as_ids_are_alike_in_all_files(tmp_path):
    rows = [{"id": i, "question": f"Is {i} lucky?", "answer": bool(i % 2)} for i in range(3)]
    floats = pd.DataFrame(rows).assign(id=[0.0, 1.0, 2.0])
    floats.to_parquet(tmp_path / "floats.parquet")
    for path in (
        save(tmp_path, "a.jsonl", rows),
        save(tmp_path, "a.csv", rows),
        save(tmp_path, "a.parquet", rows),
        tmp_path / "floats.parquet",
    ):
        assert [(q.id, q.answer) for q in load_questions(path)] == [("0", "No"), ("1", "Yes"), ("2", "No")]
    with pytest.raises(ValueError, match=r"row 2 .*the id '1' is row 1's already"):
        load_questions(save(tmp_path, "b.jsonl", [rows[1], rows[2] | {"id": 1.0}]))


def test_texts_of_a_frames_index_are_ids(tmp_path):
    frame = pd.DataFrame(
        [{"question": "Is it?", "answer": "Yes"}, {"question": "Is that?", "answer": "No"}], index=["p", "q"]
    )
    frame.to_parquet(tmp_path / "a.parquet")
    frame.to_csv(tmp_path / "a.csv")
    for name in ("a.parquet", "a.csv"):
        assert [q.id for q in load_questions(tmp_path / name)] == ["p", "q"]


def test_a_column_of_bytes_is_no_text(tmp_path):
    with pytest.raises(ValueError, match=r"row 1 .*question is b'Is it\?', a bytes; expected text"):
        load_questions(save(tmp_path, "a.parquet", [{"question": b"Is it?", "answer": "Yes"}]))


def test_whole_answers_in_a_column_of_floats(tmp_path):
    """What a missing answer beside them makes of integers."""
    rows = [{"question": f"What is {i} and {i}?", "answer": float(2 * i)} for i in range(11, 15)]
    found = load_questions(save(tmp_path, "a.parquet", rows))
    assert found[0].text == 'What is 11 and 11? Is the answer "22"?'
    assert found == load_questions(save(tmp_path, "a.csv", [row | {"answer": int(row["answer"])} for row in rows]))


def test_questions_and_requests_from_standard_input(monkeypatch):
    for load, row in (
        (load_questions, {"question": "Is it?", "answer": "No"}),
        (lambda s: load_requests(s, kind="harmful"), {"goal": LOCK}),
    ):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(json.dumps(row).encode())))
        assert load("-")[0].id == "stdin-1"


def test_texts_to_judge_need_no_kind(tmp_path):
    assert [r.text for r in read_texts(save(tmp_path, "a.json", [{"bad_q": LOCK}, {"bad_q": BREAD}]))] == [LOCK, BREAD]

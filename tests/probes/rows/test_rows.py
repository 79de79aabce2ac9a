"""The one reader of rows: every kind of file, what is missing, and what is refused, with its row."""

from __future__ import annotations

import csv
import gc
import gzip
import io
import json
import math
import os
import random
import sys
import threading
import warnings
from datetime import date
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from interp.reports.findings import Findings
from probes.rows.cells import listed, named, strings, text
from probes.rows.rows import read_lines, read_rows, stem_of, stream_rows

ROWS = [{"ask": "Is tea hot?", "say": "Yes"}, {"ask": "Is ice, in summer, hot?", "say": "No"}]
TABLE = 'ask,say\nIs tea hot?,Yes\n"Is ice, in summer, hot?",No\n'


def put(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def fields(path: str | Path) -> list[dict]:
    return [row.fields for row in read_rows(path)]


def lines(rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


# --- what a file holds is told from its content ----------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", TABLE),
        ("windows.csv", TABLE.replace("\n", "\r\n")),
        ("old-mac.csv", TABLE.replace("\n", "\r")),
        ("mark.csv", "\ufeff" + TABLE),
        ("utf-16.csv", TABLE.encode("utf-16")),
        ("utf-32.csv", TABLE.encode("utf-32")),
        ("spaces in the header.csv", TABLE.replace("ask,say", " ask , say")),
        ("blank lines.csv", "\n\n" + TABLE.replace("Yes\n", "Yes\n\n")),
        ("semicolons.csv", "ask;say\nIs tea hot?;Yes\nIs ice, in summer, hot?;No\n"),
        ("tabs.csv", "ask\tsay\nIs tea hot?\tYes\nIs ice, in summer, hot?\tNo\n"),
        ("tabs.tsv", "ask\tsay\nIs tea hot?\tYes\nIs ice, in summer, hot?\tNo\n"),
        ("commas.tsv", TABLE),
        ("zipped.csv.gz", gzip.compress(TABLE.encode(), mtime=0)),
        ("zipped without saying so.csv", gzip.compress(TABLE.encode(), mtime=0)),
        ("lines.jsonl", lines(ROWS)),
        ("lines.json", lines(ROWS)),
        ("lines.csv", lines(ROWS)),
        ("lines.txt", lines(ROWS)),
        ("lines.data", "\ufeff" + lines(ROWS).replace("\n", "\r\n")),
        ("lines.jsonl.gz", gzip.compress(lines(ROWS).encode(), mtime=0)),
        ("array.json", json.dumps(ROWS)),
        ("array.jsonl", json.dumps(ROWS, indent=1)),
        ("inside examples.json", json.dumps({"canary": "x", "examples": ROWS})),
        ("inside data.json", json.dumps({"data": ROWS}, indent=2)),
        ("columns.json", pd.DataFrame(ROWS).to_json()),
    ],
)
def test_one_table_in_every_kind_of_file(tmp_path, name, content):
    assert fields(put(tmp_path, name, content)) == ROWS


@pytest.mark.parametrize("name", ["a.parquet", "a.csv", "a", "a.parquet.gz"])
def test_parquet_whatever_its_name(tmp_path, name):
    pd.DataFrame(ROWS).to_parquet(tmp_path / "made")
    content = (tmp_path / "made").read_bytes()
    assert fields(put(tmp_path, name, gzip.compress(content) if name.endswith("gz") else content)) == ROWS


def test_an_object_of_objects_is_rows_by_their_keys(tmp_path):
    path = put(tmp_path, "keyed.json", json.dumps({"first": ROWS[0], "second": ROWS[1]}))
    assert [(row.key, row.label, row.fields) for row in read_rows(path)] == [
        ("first", "first", ROWS[0]),
        ("second", "second", ROWS[1]),
    ]


def test_one_object_is_one_row(tmp_path):
    for name in ("a.json", "a.jsonl"):
        assert fields(put(tmp_path, name, json.dumps(ROWS[0]))) == ROWS[:1]
        assert fields(put(tmp_path, name, json.dumps(ROWS[0], indent=1))) == ROWS[:1]


@pytest.mark.parametrize("seed", range(6))
def test_tables_are_what_csv_says(tmp_path, seed):
    """Texts with every awkward character, written by the standard library: read back as they were."""
    rng = random.Random(seed)
    words = [
        'a"b',
        "x,y",
        "two\nlines",
        "semi;colon",
        "tab\there",
        "",
        " ",
        "é ☕ 漢",
        "nan",
        "None",
        "'",
        '"',
        '""',
        "a\r\nb",
    ]
    rows = [{name: rng.choice(words) + rng.choice(words) for name in ("one", "two", "three")} for _ in range(30)]
    for name, delimiter in (("a.csv", ","), ("a.tsv", "\t"), ("a.csv", ";")):
        made = io.StringIO(newline="")
        writer = csv.DictWriter(made, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
        assert fields(put(tmp_path, name, made.getvalue())) == rows


# --- standard input and pipes ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [TABLE.encode(), lines(ROWS).encode(), json.dumps(ROWS).encode(), gzip.compress(TABLE.encode(), mtime=0)]
)
def test_standard_input(monkeypatch, content):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert fields("-") == ROWS and stem_of("-") == "stdin"
    with pytest.raises(ValueError, match=r"standard input: the file is empty.*can be read once: is it named twice\?"):
        read_rows("-")


def test_parquet_from_standard_input(monkeypatch):
    made = io.BytesIO()
    pd.DataFrame(ROWS).to_parquet(made)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(made.getvalue())))
    assert fields("-") == ROWS


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_read_once(tmp_path):
    pipe = tmp_path / "rows.csv"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_text(TABLE))
    writer.start()
    assert fields(pipe) == ROWS
    writer.join()
    assert stem_of("/dev/fd/63") == "pipe" and stem_of("a/b.jsonl.gz") == "b"


def test_an_error_in_standard_input_is_named(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a,b\n1,2,3\n")))
    with pytest.raises(ValueError, match=r"^standard input, row 1 \(line 2\)"):
        read_rows("-")


# --- every row has the header's fields -------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("spare", [",", ",,", ', ,""'])
def test_a_comma_at_the_end_of_every_row_is_nothing(tmp_path, spare, ending):
    table = ending.join(["ask,say", f'"Is tea hot?",Yes{spare}', f'"Is ice, in summer, hot?",No{spare}', ""])
    assert fields(put(tmp_path, "a.csv", table)) == ROWS
    of_header = table.replace("ask,say", "ask,say,,")
    if spare == ",,":
        assert fields(put(tmp_path, "a.csv", of_header)) == ROWS


@pytest.mark.parametrize(
    ("table", "row"),
    [
        (
            "ask,say\nIs tea hot?,Yes\nIs ice, in summer,\n",
            r"row 2 \(line 3\)",
        ),  # its last field is empty: a comma of the text
        ("ask,say\nIs tea hot?,Yes,\nIs ice hot?,No\n", r"row 2 \(line 3\)"),
        ("ask,say\nIs tea hot?,Yes,\nIs ice hot?,No,really\n", r"row 2 \(line 3\)"),
        ("ask,say\nIs tea hot?\n", r"row 1 \(line 2\)"),
        ('ask,say\n"two\nlines",Yes\nIs ice hot?,No,\n', r"row 2 \(line 4\)"),
        ("ask\nIs ice, in summer, hot?\n", r"row 1 \(line 2\)"),
        ("ask;say\na;b\nc;d;e\n", r"row 2 \(line 3\)"),
        ("ask\tsay\na\tb\nc\n", r"row 2 \(line 3\)"),
    ],
)
def test_another_number_of_fields_is_refused(tmp_path, table, row):
    with pytest.raises(ValueError, match=rf"a\.csv, {row} .*another number of cells than the header's"):
        read_rows(put(tmp_path, "a.csv", table))


def test_a_field_under_no_name_is_refused(tmp_path):
    table = "ask,say,\nIs tea hot?,Yes,\nIs ice, in summer,No\n"
    with pytest.raises(ValueError, match=r"row 2 \(line 3\): its cell 'No' stands under no name"):
        read_rows(put(tmp_path, "a.csv", table))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("ask,say,ask\na,b,c\n", "header has 'ask' twice"),
        ('ask,say\n"a,b\nc,d\n', r"row 1 .*can't be read as a table"),
        ('ask,say\na,b\n"c" d,e\n', r"row 2 .*double the marks in it"),
        (b"ask,say\na,b\ncaf\xe9,d\n", r"row 2 can't be read as \.csv: it has a byte 0xe9 that is not UTF-8"),
        ("ask,say\na,b\nc\0,d\n", "row 2 .*NUL"),
        ("ask,s\0ay\na,b\n", "header .*NUL"),
        (TABLE.encode("utf-16-le"), "UTF-16 without a mark"),
        (TABLE.encode("utf-16")[:-1], "not the utf-16"),
        (b"PK\x03\x04 workbook", "Excel workbook"),
        ("<!DOCTYPE html><p>404", "is a web page"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "pointer of Git LFS"),
        (gzip.compress(TABLE.encode() * 50, mtime=0)[:-20], "gzip file is damaged or cut off"),
        ("ask,say\n", "the file is empty"),
        ("\ufeff", "the file is empty"),
        ("\n \n", "the file is empty"),
    ],
)
def test_broken_tables_are_refused(tmp_path, table, message):
    with pytest.raises(ValueError, match=message):
        read_rows(put(tmp_path, "a.csv", table))


def test_long_fields(tmp_path):
    long = "word " * 100_000
    assert fields(put(tmp_path, "a.csv", f"ask,say\n{long},Yes\n"))[0]["ask"] == long


# --- JSON as it is written -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"ask": "a"}\n{"ask": "b" "say"}\n', "line 2, column 13: invalid JSON"),
        ('{"ask": "a"}\n["b"]\n', r"row 2: \['b'\] is not an object"),
        ('[{"ask": "a"}, 5]', "row 2: 5 is not an object"),
        ('[{"ask": "a"},\n {"ask": ', "damaged, or cut off"),
        ('[{"ask": "a"}]\n[{"ask": "b"}]\n', r"row 1: \[\{'ask': 'a'\}\] is not an object"),
        ('[{"ask":\n "a"}]\n{"ask": "b"}\n', "line 3: there is more after the first value"),
        ('{"ask": "a", "ask": "b"}\n{"ask": "c"}\n', "line 1: the name 'ask' stands twice"),
        ('{"ask": "a"}\n{"ask": ' + "[" * 100_000 + "]" * 100_000 + "}\n", "line 2: it is nested too deep"),
        ('[{"ask": ' + "[" * 100_000 + "]" * 100_000 + "}]", "nested too deep"),
        ('{"ask": "a"}\n{"ask": ' + "1" * 5000 + "}\n", "line 2: .*digits"),
        ('{"ask": "a"}\n{"ask": "\\udc00 b"}\n', r"row 2 .*lone surrogate U\+DC00"),
        ('[{"ask": "a"}, {"ask": ["x", {"y": "\\ud800"}]}]', r"row 2 .*lone surrogate U\+D800"),
        ('{"ask": "a"}\n{"\\ud8ff": "b"}\n', r"row 2 .*lone surrogate"),
        ('{"ask": "a"}\n{"ask": "\\u0000"}\n', "row 2 .*NUL"),
        (b'{"ask": "a"}\n' + b'{"ask": "\xff"}\n', "row 2 .*0xff that is not UTF-8"),
    ],
)
def test_broken_json_is_refused(tmp_path, content, message):
    for name in ("a.json", "a.jsonl"):
        with pytest.raises(ValueError, match=message):
            read_rows(put(tmp_path, name, content))


def test_whole_characters_outside_the_basic_plane_are_kept(tmp_path):
    assert fields(put(tmp_path, "a.json", '{"ask": "\\ud83d\\ude00"}')) == [{"ask": "😀"}]


# --- what is missing -------------------------------------------------------------------------------------


def test_missing_is_none_in_every_format(tmp_path):
    """pandas' own ways out: to_json, json.dumps of records, to_parquet, with NaN, NaT, NA and None."""
    frame = pd.DataFrame(
        {
            "words": ["a", None],
            "number": [1.5, math.nan],
            "count": pd.array([1, pd.NA], dtype="Int64"),
            "flag": pd.array([True, pd.NA], dtype="boolean"),
            "day": pd.to_datetime(["2024-05-01", None]),
            "kind": pd.Categorical(["x", None]),
        }
    )
    frame.to_parquet(tmp_path / "a.parquet")
    frame.to_json(tmp_path / "a.json", orient="records", date_format="iso")
    records = frame[["words", "number"]].astype(object).where(frame[["words", "number"]].notna(), math.nan)
    put(tmp_path, "a.jsonl", lines(records.to_dict("records")))
    for name in ("a.parquet", "a.json", "a.jsonl"):
        first, second = fields(tmp_path / name)
        assert set(second.values()) == {None} and None not in first.values(), name
        assert [text(second, column) for column in second] == [""] * len(second)
    assert [text(fields(tmp_path / "a.parquet")[0], c) for c in frame] == [
        "a",
        "1.5",
        "1",
        "True",
        "2024-05-01T00:00:00",
        "x",
    ]


def test_nan_inside_lists_and_objects_and_as_arrow_holds_it(tmp_path):
    (row,) = fields(put(tmp_path, "a.jsonl", '{"a": [NaN, 1], "b": {"c": NaN}, "d": "NaN"}\n'))
    assert row == {"a": [None, 1], "b": {"c": None}, "d": "NaN"}
    table = pa.table(
        {"a": pa.array([math.nan, 1.0]), "b": pa.array([[math.nan], [2.0]]), "c": pa.array([date(2024, 5, 1), None])}
    )
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert fields(tmp_path / "a.parquet") == [
        {"a": None, "b": [None], "c": "2024-05-01"},
        {"a": 1.0, "b": [2.0], "c": None},
    ]


def test_cells_that_say_nan_are_text_but_name_nothing(tmp_path):
    (row,) = fields(put(tmp_path, "a.csv", "ask,pair,id\nNA,nan,None\n"))
    assert text(row, "ask") == "NA"
    for name in ("pair", "id"):
        with pytest.raises(ValueError, match=f"the {name} is '(nan|None)', which is a missing value written as text"):
            named(row, name)


def test_one_number_is_one_name():
    assert {text({"id": value}, "id") for value in (1, 1.0, "1", " 1 ")} == {"1"}
    assert text({"id": 0}, "id") == "0" and text({"id": 2.5}, "id") == "2.5" and text({"id": True}, "id") == "True"
    for value in (b"abc", math.inf, ["a"], {"a": 1}):
        with pytest.raises(ValueError, match="expected text"):
            text({"id": value}, "id")


def test_lists_in_cells():
    for cell in (["a", "b"], '["a", "b"]', "['a', 'b']", "a|b"):
        assert strings({"x": cell}, "x") == ("a", "b")
    assert (
        strings({"x": None}, "x") == strings({"x": ""}, "x") == strings({"x": "[]"}, "x") == () and listed("[a") is None
    )
    for cell in (["a", None], "[open('x')]", 5, "[1,"):
        with pytest.raises(ValueError, match="malformed x"):
            strings({"x": cell}, "x")


# --- the index of a frame --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("index", "keys"),
    [
        (pd.Index(["p", "q"]), ["p", "q"]),
        (pd.Index([3, 17]), ["", ""]),
        (pd.RangeIndex(2), ["", ""]),
        (pd.Index(["p", "q"], name="id"), ["", ""]),  # a column of its name
    ],
)
def test_an_index_of_texts_is_kept(tmp_path, index, keys):
    frame = pd.DataFrame(ROWS, index=index)
    frame.to_parquet(tmp_path / "a.parquet")
    frame.to_csv(tmp_path / "a.csv")
    for name in ("a.parquet", "a.csv"):
        rows = read_rows(tmp_path / name)
        assert [row.key for row in rows] == keys
        assert [{c: row.fields[c] for c in ("ask", "say")} for row in rows] == ROWS
        assert index.name is None or [row.fields["id"] for row in rows] == ["p", "q"]


# --- other things ----------------------------------------------------------------------------------------


def test_no_more_is_read_than_asked(tmp_path):
    for name, good in (("a.csv", "ask\n" + "a\n" * 3), ("a.jsonl", '{"ask": "a"}\n' * 3)):
        path = put(tmp_path, name, good.encode() + b"\xff,\xff\n")
        stream = stream_rows(path)
        assert [next(stream).label for _ in range(3)] == ["1", "2", "3"]
        with pytest.raises(ValueError, match=r"row 4|line 4"):
            next(stream)


def test_broken_parquet(tmp_path):
    pd.DataFrame({"a": range(1000)}).to_parquet(tmp_path / "a.parquet")
    whole = (tmp_path / "a.parquet").read_bytes()
    for content in (whole[:-30], b"PAR1", b"PAR1" + b"\0" * 50 + b"PAR1", b"nothing"):
        with pytest.raises(ValueError, match=r"a\.parquet, which can't be read as \.parquet"):
            read_rows(put(tmp_path, "a.parquet", content))


def test_missing_files_and_folders(tmp_path):
    put(tmp_path, "rows.csv", TABLE)
    with pytest.raises(FileNotFoundError, match=r"no file .*row\.csv.*Close matches: rows\.csv"):
        read_rows(tmp_path / "row.csv")
    with pytest.raises(FileNotFoundError, match="no file"):
        read_rows(tmp_path)


def test_lines(tmp_path):
    assert read_lines(put(tmp_path, "a.txt", "\ufeffone\r\n\n two\u2028and on \n")) == [
        ("1", "one"),
        ("3", "two\u2028and on"),
    ]
    with pytest.raises(ValueError, match="is no text in UTF-8: line 2 has a byte 0xe9"):
        read_lines(put(tmp_path, "a.txt", b"one\ncaf\xe9\n"))


def test_a_table_of_a_saved_report_is_read_back_as_it_was(tmp_path):
    """A cell that a spreadsheet would run has an apostrophe there; in any other file the apostrophe is its own."""
    table = pd.DataFrame({"question": ["=1+1?", "'quoted'", "plain"], "answer": ["Yes", "No", "No"]})
    Findings("a study", ["a sentence"], {"asked": table}, {}, provenance={"run_id": "1"}).save(tmp_path / "report")
    saved = next((tmp_path / "report").glob("*.csv"))
    assert [row.fields["question"] for row in read_rows(saved)] == list(table["question"])
    other = tmp_path / saved.name
    other.write_bytes(saved.read_bytes())
    assert read_rows(other)[0].fields["question"] == "'=1+1?"


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.jsonl.gz", "a.csv.gz"])
def test_a_file_is_closed_behind_the_reader(tmp_path, name):
    texts = {"json": '[{"q": "a"}, {"q": "b"}]', "jsonl": '{"q": "a"}\n{"q": "b"}\n'}
    text = texts.get(name.split(".")[1], "q\na\nb\n")
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        assert [row.fields["q"] for row in stream_rows(path)] == ["a", "b"]
        assert next(iter(stream_rows(path))).fields["q"] == "a"  # and behind one who stops early
        gc.collect()

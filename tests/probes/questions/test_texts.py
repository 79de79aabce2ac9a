"""The passages that perplexity is measured on: enough of them, varied, and each sentence only once."""

import itertools
import json
import re
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from probes.questions.questions import load_questions
from probes.questions.texts import BUILTIN, Text, load_texts

ROOT = Path(__file__).parents[3]
ROWS = [{"id": "a", "kind": "note", "text": "The tide is out."}, {"text": "The tide is in."}]


def sentences(text: str) -> list[str]:
    """Sentences of prose, and lines of code, lists and dialogue."""
    return [part.strip(' "') for part in re.split(r"(?<=[.?!:])[\"']?\s+|\n", text) if len(part.split()) > 2]


def write(tmp_path: Path, rows: list[dict], name: str = "mine.jsonl") -> Path:
    path = tmp_path / name
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def test_sixty_passages_of_one_paragraph_or_so():
    texts = load_texts()
    assert len(texts) == len({t.id for t in texts}) == 60
    assert not {t.id: n for t in texts if not 70 <= (n := len(t.text.split())) <= 110}
    assert all(t.text == t.text.strip() for t in texts)


def test_they_are_plain_ascii():
    assert BUILTIN.read_bytes().isascii()
    assert all(re.fullmatch(r"[ -~\n]+", t.text) for t in load_texts())


def test_they_are_of_many_kinds_and_mixed():
    kinds = [t.kind for t in load_texts()]
    assert len(set(kinds)) == 30 and max(Counter(kinds).values()) <= 6
    assert len(set(kinds[:10])) == 10
    assert all(a != b for a, b in itertools.pairwise(kinds))
    assert sum("\ndef " in t.text for t in load_texts()) == 3


def test_no_sentence_stands_twice():
    counts = Counter(s.lower() for t in load_texts() for s in sentences(t.text))
    assert len(counts) > 300
    assert not [s for s, n in counts.items() if n > 1]


def test_no_long_run_of_words_stands_in_two_passages():
    """No template: eight words in a row belong to one passage."""
    seen: dict[tuple[str, ...], str] = {}
    for t in load_texts():
        words = re.findall(r"[a-z0-9']+", t.text.lower())
        for i in range(len(words) - 7):
            assert seen.setdefault(tuple(words[i : i + 8]), t.id) == t.id


def test_openings_differ():
    assert len({tuple(t.text.split()[:2]) for t in load_texts()}) == 60


def test_they_ask_no_yes_no_question_and_hold_none_of_the_shipped_ones():
    asked = [s for t in load_texts() for s in sentences(t.text) if s.endswith("?")]
    assert all(re.search(r"\b(what|which|how|who|why|where|when)\b", s.lower()) for s in asked), asked
    everything = "\n".join(t.text for t in load_texts())
    assert not re.search(r"\b(Yes|No)\b[,.!]", everything)
    assert not [q.text for q in load_questions() if q.text in everything or (q.fact and q.fact in everything)]


def test_the_code_compiles():
    parts = [part for t in load_texts() if t.kind == "code" for part in t.text.split("\n\n")]
    blocks = [part for part in parts if part.startswith("def ")]
    assert len(blocks) == 3
    for block in blocks:
        compile(block, "a passage", "exec")


def test_the_file_is_shipped_with_the_package():
    packaging = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    patterns = packaging["package-data"]["probes"]
    assert any(BUILTIN.relative_to(ROOT / "probes").match(pattern) for pattern in patterns)


# --- other files ----------------------------------------------------------------------------------------


def test_rows_without_id_or_kind_are_numbered(tmp_path):
    assert load_texts(write(tmp_path, ROWS)) == [
        Text("a", "note", ROWS[0]["text"]),
        Text("mine-2", "", ROWS[1]["text"]),
    ]


def test_a_csv_will_do(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text('text,kind\n"The tide, they say, is out.",note\n', encoding="utf-8")
    assert load_texts(path) == [Text("mine-1", "note", "The tide, they say, is out.")]


def test_limit_takes_the_first(tmp_path):
    assert load_texts(limit=7) == load_texts()[:7]
    assert len(load_texts(limit=1000)) == 60
    with pytest.raises(ValueError, match="limit=0; expected 1 or more"):
        load_texts(limit=0)


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        ([*ROWS, {"text": " "}], r"row 3: the text is ' '; expected words"),
        ([*ROWS, {"text": None}], r"row 3: the text is None; expected words"),
        ([*ROWS, {"text": ["a", "b"]}], r"row 3: the text is \['a', 'b'\]; expected words"),
        ([*ROWS, {"text": "Ebb.", "kind": 3}], r"row 3: the kind is 3; expected words"),
        ([*ROWS, {"passage": "Ebb.", "id": "b"}], r"row 3: no column 'text'; the columns are passage, id"),
        ([*ROWS, ROWS[0]], r"row 3: the id 'a' is row 1's already"),
        ([], "the file is empty"),
    ],
)
def test_bad_rows_are_named(tmp_path, rows, error):
    with pytest.raises(ValueError, match=error):
        load_texts(write(tmp_path, rows))


def test_missing_files_are_named(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"no file .*nowhere\.jsonl; expected 'builtin'"):
        load_texts(tmp_path / "nowhere.jsonl")
    monkeypatch.setattr("probes.questions.texts.BUILTIN", tmp_path / "texts.jsonl")
    with pytest.raises(FileNotFoundError, match="built-in texts are missing"):
        load_texts()

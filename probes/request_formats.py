"""The shapes of file that requests come in: one small function a format, and how a file's format is told.

A format function takes one row and gives the fields of :class:`probes.requests.Request`, ``kind`` left out where the
shape does not say it. It knows neither the file nor the row's number: :func:`probes.requests.load_requests` adds both
to every error. Names of columns are taken in any case.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
Fields = dict[str, str]  # keyword arguments of Request

_KINDS = {
    **dict.fromkeys(("harmful", "unsafe", "malicious"), "harmful"),
    **dict.fromkeys(("harmless", "safe", "benign"), "harmless"),
}


def plain(row: Row, key: str) -> list[Fields]:
    """headscope's own shape: text (or prompt); optional kind, id, category, source, pair."""
    fields = {name: _text(row, name) for name in ("category", "source", "pair")}
    fields |= {"id": _text(row, "id") or key, "text": _filled(row, "text", "prompt")}
    return [fields | ({"kind": kind(row["kind"])} if _text(row, "kind") else {})]


def advbench(row: Row, key: str) -> list[Fields]:
    """AdvBench (Zou et al. 2023): goal, target. All are harmful."""
    return [{"id": key, "text": _filled(row, "goal", "prompt"), "kind": "harmful"}]


def jailbreakbench(row: Row, key: str) -> list[Fields]:
    """JailbreakBench (Chao et al. 2024): goal, target, behavior, category; index. Its harmful and its benign file have
    the same columns, and a benign behaviour for each harmful one: rows of one index are a pair."""
    index = _text(row, "index")
    pair = f"jailbreakbench-{index}" if index else ""
    return [{"id": key, "text": _filled(row, "goal", "prompt"), "category": _text(row, "category"), "pair": pair}]


def sorrybench(row: Row, key: str) -> list[Fields]:
    """SORRY-Bench (Xie et al. 2025): turns, category, question_id; prompt_style. All count as harmful, its mild ones
    (advice that only a professional should give) too. A question's rewritings are a pair with it."""
    turns = row.get("turns")
    text = turns[0] if isinstance(turns, list) and turns else turns
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"turns is {turns!r}; expected a list that begins with the request's text")
    question, style = _text(row, "question_id"), _text(row, "prompt_style")
    fields = {"category": _text(row, "category"), "pair": f"sorrybench-{question}" if question else ""}
    name = f"{key}-{style}" if style not in ("", "base") else key
    return [fields | {"id": name, "text": text.strip(), "kind": "harmful"}]


def xstest(row: Row, key: str) -> list[Fields]:
    """XSTest (Röttger et al. 2024): prompt, type; label. Unsafe by the label or, where there is none, by a type that
    begins with "contrast"; the type is the category."""
    kind_of_type = "harmful" if _text(row, "type").startswith("contrast") else "harmless"
    found = kind(row["label"]) if _text(row, "label") else kind_of_type
    return [{"id": key, "text": _filled(row, "prompt"), "category": _text(row, "type"), "kind": found}]


def alpaca(row: Row, key: str) -> list[Fields]:
    """Alpaca (Taori et al. 2023): instruction, input, output. All are harmless. An input follows after a blank line."""
    parts = [_filled(row, "instruction"), _text(row, "input")]
    return [{"id": key, "text": "\n\n".join(p for p in parts if p), "kind": "harmless"}]


def catqa(row: Row, key: str) -> list[Fields]:
    """CatQA (Bhardwaj et al. 2024): category, subcategory, question; or one object, {category: {subcategory: [question,
    ...]}}, as it was published. All are harmful."""
    if not is_nested(row):
        return [
            {"id": key, "text": _filled(row, "question"), "category": _text(row, "category"), "kind": "harmful"},
        ]
    found = [(name, text) for name, parts in row.items() for texts in parts.values() for text in texts]
    return [
        {"id": f"{key}.{i}", "text": text.strip(), "category": name, "kind": "harmful"}
        for i, (name, text) in enumerate(found, 1)
    ]


def harmbench(row: Row, key: str) -> list[Fields]:
    """HarmBench (Mazeika et al. 2024): behavior, semanticcategory; contextstring, which comes first, before a blank
    line. All are harmful."""
    parts = [_text(row, "contextstring"), _filled(row, "behavior")]
    text = "\n\n".join(p for p in parts if p)
    return [{"id": key, "text": text, "category": _text(row, "semanticcategory"), "kind": "harmful"}]


def strongreject(row: Row, key: str) -> list[Fields]:
    """StrongREJECT (Souly et al. 2024): forbidden_prompt, category. All are harmful."""
    text = _filled(row, "forbidden_prompt")
    return [{"id": key, "text": text, "category": _text(row, "category"), "kind": "harmful"}]


FORMATS: dict[str, tuple[Callable[[Row, str], list[Fields]], tuple[str, ...]]] = {
    "strongreject": (strongreject, ("forbidden_prompt",)),
    "harmbench": (harmbench, ("behavior", "semanticcategory")),
    "sorrybench": (sorrybench, ("turns",)),
    "jailbreakbench": (jailbreakbench, ("goal", "behavior")),
    "advbench": (advbench, ("goal", "target")),
    "alpaca": (alpaca, ("instruction", "output")),
    "catqa": (catqa, ("question", "category")),
    "xstest": (xstest, ("prompt", "type")),
    "plain": (plain, ()),
}
"""Each format's function and the columns that tell it, the most telling first."""


def detect_format(rows: Sequence[Row]) -> str:
    """The first format whose columns are all there; "plain" for a file that has a column "kind", or none of them."""
    names = {name for row in rows for name in row}
    if len(rows) == 1 and is_nested(rows[0]):
        return "catqa"
    if "kind" in names:
        return "plain"
    return next(form for form, (_, telling) in FORMATS.items() if names.issuperset(telling))


def lower_names(row: Row) -> dict[str, Any]:
    """The row with the names of its columns in lower case, unless they are CatQA's categories."""
    return dict(row) if is_nested(row) else {str(name).strip().lower(): value for name, value in row.items()}


def is_nested(row: Row) -> bool:
    """Whether this is CatQA in one object."""
    return bool(row) and all(
        isinstance(parts, dict) and parts and all(isinstance(texts, list) for texts in parts.values())
        for parts in row.values()
    )


def kind(value: Any) -> str:
    """ "harmful" for harmful, unsafe or malicious; "harmless" for harmless, safe or benign; ValueError for others."""
    word = str(value).strip().lower()
    if word not in _KINDS:
        raise ValueError(f"the kind is {value!r}; expected 'harmful' or 'harmless'. Correct or remove the row")
    return _KINDS[word]


def _text(row: Row, name: str) -> str:
    value = row.get(name)
    if isinstance(value, list | dict):
        raise ValueError(f"{name} is a {type(value).__name__}; expected text")
    return "" if value is None else str(value).strip()


def _filled(row: Row, *names: str) -> str:
    """The first of these columns that has text."""
    for name in names:
        if text := _text(row, name):
            return text
    raise ValueError(
        f"there is no text in {' or '.join(names)}; the columns are {', '.join(row)}. Fill it in, remove the row, or "
        f"give format= (one of {', '.join(FORMATS)})"
    )

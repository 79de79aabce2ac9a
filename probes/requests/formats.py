"""The shapes of file that requests come in: one small function a format, and the list of formats.

A format function takes one row and gives the fields of :class:`probes.requests.Request`, ``kind`` left out where the
shape does not say it. It knows neither the file nor the row's number: :func:`probes.requests.load_requests` adds both
to every error. Names of columns are taken in any case.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from probes.rows import Format, Misread, Templates, filled, listed, named, places, text

Row = Mapping[str, Any]
Fields = dict[str, str]  # keyword arguments of Request

_KINDS = {
    **dict.fromkeys(("harmful", "unsafe", "malicious"), "harmful"),
    **dict.fromkeys(("harmless", "safe", "benign"), "harmless"),
}


def plain(row: Row, key: str, seed: int) -> list[Fields]:
    """headscope's own shape: text (or prompt); optional kind, id, category, source, pair."""
    found = [(name, text(row, name)) for name in ("text", "prompt") if text(row, name)]
    if not found:
        jailbreaks = {"template", "suffix"} & set(row)
        hint = ". A file of jailbreaks is read by load_jailbreaks" if jailbreaks else ""
        what = f"there is no text in text or prompt; the columns are {', '.join(row)}{hint}. Fill it in, remove the row"
        raise Misread(f"{what}, or say which column has it", {"text": "<its name>"}, [*FORMATS])
    if len({words for _, words in found}) > 1:
        raise Misread("text and prompt say different things: one of them is not the request", {"text": "prompt"})
    fields = {name: text(row, name) for name in ("category", "source")}
    return [fields | {"id": named(row, "id") or key, "pair": named(row, "pair"), "text": found[0][1]} | _said(row)]


def of_column(name: str) -> Callable[[Row, str, int], list[Fields]]:
    """A reader of files whose requests are in a column of this name; nothing but a column "kind" says what they are."""

    def read(row: Row, key: str, seed: int) -> list[Fields]:
        fields = {part: text(row, part) for part in ("category", "source")} | {"pair": named(row, "pair")}
        return [fields | {"id": named(row, "id") or key, "text": filled(row, name)} | _said(row)]

    return read


def advbench(row: Row, key: str, seed: int) -> list[Fields]:
    """AdvBench (Zou et al. 2023): goal, target. All are harmful."""
    return [{"id": key, "text": _goal(row)} | _said(row, "harmful")]


def jailbreakbench(row: Row, key: str, seed: int) -> list[Fields]:
    """JailbreakBench (Chao et al. 2024): goal, target, behavior, category; index. Its harmful and its benign file have
    the same columns, and a benign behaviour for each harmful one: rows of one index are a pair."""
    index = named(row, "index")
    pair = f"jailbreakbench-{index}" if index else ""
    fields = {"id": key, "text": _goal(row), "category": text(row, "category"), "pair": pair}
    return [fields | _said(row)]


def sorrybench(row: Row, key: str, seed: int) -> list[Fields]:
    """SORRY-Bench (Xie et al. 2025): turns, category, question_id; prompt_style. All count as harmful, its mild ones
    (advice that only a professional should give) too. A question's rewritings are a pair with it."""
    turns = row.get("turns")
    if isinstance(turns, str) and turns.lstrip().startswith("["):  # in a table's cell
        turns = listed(turns)
    asked = turns[0] if isinstance(turns, list) and turns else turns
    if not isinstance(asked, str) or not asked.strip():
        raise ValueError(
            f"turns is {named_short(row.get('turns'))}; expected a list that begins with the request's text"
        )
    question, style = named(row, "question_id"), text(row, "prompt_style")
    fields = {"category": text(row, "category"), "pair": f"sorrybench-{question}" if question else ""}
    name = f"{key}-{style}" if style not in ("", "base") else key
    return [fields | {"id": name, "text": asked.strip()} | _said(row, "harmful")]


def xstest(row: Row, key: str, seed: int) -> list[Fields]:
    """XSTest (Röttger et al. 2024): prompt, type; label. Unsafe by the label or, where there is none, by a type that
    begins with "contrast"; the type is the category."""
    kind_of_type = "harmful" if text(row, "type").startswith("contrast") else "harmless"
    found = kind(row["label"]) if text(row, "label") else kind_of_type
    return [{"id": key, "text": filled(row, "prompt"), "category": text(row, "type")} | _said(row, found)]


def alpaca(row: Row, key: str, seed: int) -> list[Fields]:
    """Alpaca (Taori et al. 2023): instruction, input, output. All are harmless. An input follows after a blank line."""
    parts = [filled(row, "instruction"), text(row, "input")]
    return [{"id": key, "text": "\n\n".join(p for p in parts if p)} | _said(row, "harmless")]


def catqa(row: Row, key: str, seed: int) -> list[Fields]:
    """CatQA (Bhardwaj et al. 2024): category, subcategory, question; or one object, {category: {subcategory: [question,
    ...]}}, as it was published. All are harmful."""
    if not is_nested(row):
        return [{"id": key, "text": filled(row, "question"), "category": text(row, "category")} | _said(row, "harmful")]
    found = [(name, asked) for name, parts in row.items() for texts in parts.values() for asked in texts]
    return [
        {"id": f"{key}.{i}", "text": filled({name: asked}, name), "category": name, "kind": "harmful"}
        for i, (name, asked) in enumerate(found, 1)
    ]


def harmbench(row: Row, key: str, seed: int) -> list[Fields]:
    """HarmBench (Mazeika et al. 2024): behavior, semanticcategory; contextstring, which comes first, before a blank
    line. All are harmful."""
    parts = [text(row, "contextstring"), filled(row, "behavior")]
    asked = "\n\n".join(p for p in parts if p)
    return [{"id": key, "text": asked, "category": text(row, "semanticcategory")} | _said(row, "harmful")]


def strongreject(row: Row, key: str, seed: int) -> list[Fields]:
    """StrongREJECT (Souly et al. 2024): forbidden_prompt, category. All are harmful."""
    asked = filled(row, "forbidden_prompt")
    return [{"id": key, "text": asked, "category": text(row, "category")} | _said(row, "harmful")]


def is_nested(row: Row) -> bool:
    """Whether this is CatQA in one object."""
    return bool(row) and all(
        isinstance(parts, dict) and parts and all(isinstance(texts, list) for texts in parts.values())
        for parts in row.values()
    )


def _goal(row: Row) -> str:
    return filled(row, "goal" if text(row, "goal") or "prompt" not in row else "prompt")


def _is_nested(rows: Sequence[Row]) -> bool:
    return len(rows) == 1 and is_nested(rows[0])


def _has_kinds(rows: Sequence[Row]) -> bool:
    return any("kind" in row and ("text" in row or "prompt" in row) for row in rows)


def _shape(name: str, tells: tuple[str, ...], read: Callable[[Row, str, int], list[Fields]], text: str) -> Format:
    return Format(name, tells, read, text, needs=(text,))


FORMATS: dict[str, Format] = {
    form.name: form
    for form in (
        Format("plain", (), plain, told_by=_has_kinds),
        _shape("strongreject", ("forbidden_prompt",), strongreject, "forbidden_prompt"),
        _shape("harmbench", ("behavior", "semanticcategory"), harmbench, "behavior"),
        _shape("sorrybench", ("turns",), sorrybench, "turns"),
        Format("jailbreakbench", ("goal", "behavior"), jailbreakbench, "goal", needs=()),
        Format("advbench", ("goal", "target"), advbench, "goal", needs=()),
        _shape("alpaca", ("instruction", "output"), alpaca, "instruction"),
        Format("catqa", ("question", "category"), catqa, "question", needs=("question",), or_by=_is_nested),
        _shape("xstest", ("prompt", "type"), xstest, "prompt"),
        *(_shape(name, (name,), of_column(name), name) for name in ("goal", "instruction", "bad_q", "behavior")),
    )
}
"""The most telling first. A file that fits none is "plain", and so is one with a column "kind" beside "text" or
"prompt"; files with one known column alone ("bad_q", "instruction") say nothing of whether their requests are
harmful."""


def lower_names(row: Row) -> dict[str, Any]:
    """The row with the names of its columns in lower case, unless they are CatQA's categories."""
    if is_nested(row):
        return dict(row)
    lowered = {str(name).strip().lower(): value for name, value in row.items()}
    if len(lowered) < len(row):
        raise ValueError(f"the columns {', '.join(map(str, row))} have two of one name up to case. Rename one of them")
    return lowered


def refuse_templates(rows: Iterable[tuple[str, Row]]) -> None:
    """Raise ``ValueError`` for rows (with their labels) that are jailbreaks, with a place where the request goes."""
    names = ("text", "prompt", "template", "jailbreak", *(form.text for form in FORMATS.values() if form.text))
    told = {name: Templates() for name in names}
    for label, row in rows:
        for name, templates in told.items():
            if isinstance(words := row.get(name), str):
                templates.add(label, words)
    for name, templates in told.items():
        if (shown := templates.shown_by()) is not None:
            label, words = shown
            place = (places(words) or ["{request}"])[0]
            raise ValueError(
                f"row {label}: its {name} is the template of a jailbreak, with {place} where a request goes. "
                "Read the file as jailbreaks (load_jailbreaks), or put the requests in"
            )


def named_short(value: Any) -> str:
    """A value as errors show it: a word as it is, of anything longer only how long it is, since it may be a request."""
    shown = repr(value)
    return shown if len(shown) <= 20 else f"a {type(value).__name__} of {len(shown)} characters"


def kind(value: Any) -> str:
    """ "harmful" for harmful, unsafe or malicious; "harmless" for harmless, safe or benign; ValueError for others."""
    word = str(value).strip().lower()
    if word not in _KINDS:
        raise ValueError(
            f"the kind is {named_short(value)}; expected 'harmful' or 'harmless'. Correct or remove the row"
        )
    return _KINDS[word]


def _said(row: Row, by_format: str = "") -> Fields:
    """What the row is: by its column "kind", by its format, or not said. ValueError where the two differ."""
    found = kind(row["kind"]) if text(row, "kind") else by_format
    if by_format and found != by_format:
        raise ValueError(
            f"its kind is {found!r}, but a row of this format is {by_format}. Correct it, or name the format"
        )
    return {"kind": found} if found else {}

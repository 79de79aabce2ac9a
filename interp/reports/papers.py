"""What goes from a result into a paper: its sources as BibTeX, its tables as LaTeX, how it was done in a paragraph."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pandas as pd

from interp.figures import displayed
from interp.records import versions
from interp.reports.markdown import cells
from interp.reports.page import model_name

_TOOL = "headscope: attention heads and directions of language models, ranked, tested, changed"  # as in CITATION.cff
_ARXIV = re.compile(r"arXiv[:\s]\s*(\d{4}\.\d{4,5})")
_NAME = r"[A-Z][\w'’-]+(?:, (?:[A-Z]\.[ -]?)+(?=[,( ]|$))?"
_PARTS = re.compile(
    rf"(?P<authors>{_NAME}(?:,? (?:and |& )?{_NAME})*(?:,? et al\.)?) \((?P<year>(?:19|20)\d\d)\)[.,] "
    r"(?P<title>[^.;]{8,200})[.;]"
)
_TITLE = re.compile(r"^(?P<title>[A-Z][^.()]{8,200}?)(?:\.|, arXiv)")
_SPECIAL = {
    "\\": r"\textbackslash{}",
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "–": "--",
    "−": r"$-$",
    "±": r"$\pm$",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "\n": " ",
}


def escaped(text: str) -> str:
    """A text as LaTeX prints it."""
    return "".join(_SPECIAL.get(c, c) for c in text)


def latex(frame: pd.DataFrame, caption: str = "") -> str:
    """The table with booktabs' rules, values with their intervals in one cell, numbers to the right, under names that
    people read; layer and head, where a label says them, are left out.

    ``caption``: above it, by default its note. Needs ``\\usepackage{booktabs}``.
    """
    told = {"layer", "head"} if "label" in frame else set()
    shown = {name: texts for name, texts in cells(frame).items() if name not in told}
    names = [escaped(displayed(name)) for name in shown]
    kinds = {str(column): values.dtype.kind for column, values in frame.items()}
    columns = "".join("r" if kinds[name] in "iuf" else "l" for name in shown)
    caption = caption or str(frame.attrs.get("note") or "")
    rows = [" & ".join(_number(escaped(cell)) for cell in row) + r" \\" for row in zip(*shown.values(), strict=True)]
    lines = [
        r"\begin{table}[t]",
        *([rf"\caption{{{escaped(caption)}}}"] if caption else []),
        r"\centering",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        " & ".join(names) + r" \\",
        r"\midrule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def bibtex(provenance: Mapping[str, Any]) -> str:
    """The sources that a result names, and headscope itself, an entry each.

    Authors, year and title are read from the sentence that the study cites a source by; the whole of it stands in
    ``note``, for what reading it missed."""
    entries, taken = [], {"headscope"}
    citations = provenance.get("citation") or []
    for text in [citations] if isinstance(citations, str) else map(str, citations):
        fields = _fields(text)
        word = re.sub(r"\W", "", re.split(r"[\s,]", fields.get("author") or fields.get("title") or "source")[0]).lower()
        key = base = f"{word or 'source'}{fields.get('year', '')}"
        number = 1
        while key in taken:
            number += 1
            key = f"{base}-{number}"
        taken.add(key)
        entries.append(_entry("misc", key, fields))
    tool = {"author": "{The headscope authors}", "title": _TOOL, "version": _version(provenance)}
    return "\n\n".join([*entries, _entry("software", "headscope", tool)]) + "\n"


def methods(title: str, provenance: Mapping[str, Any]) -> str:
    """A paragraph for a methods section, with the run's own numbers; what the run did not record is left out."""
    about = provenance.get("model")
    about = about if isinstance(about, Mapping) else {}
    said = [f"{title}: we used headscope {_version(provenance)}"]
    said[0] += f" on {model_name(provenance)}" if provenance.get("model") else ""
    if about.get("n_layers"):
        said[0] += (
            f" ({about['n_layers']} layers of {about['n_heads']} attention heads, {about.get('dtype', 'float32')})"
        )
    data = provenance.get("data")
    if isinstance(data, Mapping) and data.get("n"):
        of = f" (SHA-256 {str(data['sha256'])[:12]})" if data.get("sha256") else ""
        said.append(f"{data['n']} examples were read{of}")
    method = provenance.get("method")
    if isinstance(method, str) and method:
        said.append(method.rstrip("."))
    settings = provenance.get("settings")
    if isinstance(settings, Mapping) and settings:
        plain = {k: v for k, v in settings.items() if isinstance(v, str | int | float | bool)}
        said += [f"Settings: {', '.join(f'{k} {v}' for k, v in plain.items())}"] if plain else []
    ran = provenance.get("versions")
    if isinstance(ran, Mapping):
        named = [f"{name} {ran[name]}" for name in ("torch", "transformers") if ran.get(name)]
        said += [f"Computed with {' and '.join(named)}"] if named else []
    said.append("Intervals are of 95 %; that of a head picked for its score does not include that it was picked")
    if provenance.get("run_id"):
        said.append(f"The run's id is {provenance['run_id']}")
    return ". ".join(said) + "."


def _version(provenance: Mapping[str, Any]) -> str:
    ran = provenance.get("versions")
    return str((ran if isinstance(ran, Mapping) else versions()).get("headscope", "unknown"))


def _fields(text: str) -> dict[str, str]:
    parts = _PARTS.search(text) or _TITLE.match(text)
    found = {"author" if k == "authors" else k: v for k, v in parts.groupdict().items()} if parts else {}
    if "author" in found:
        found["author"] = _authors(found["author"])
    if arxiv := _ARXIV.search(text):
        found |= {"eprint": arxiv[1], "archiveprefix": "arXiv"}
        found.setdefault("year", f"20{arxiv[1][:2]}")
    return found | {"note": text}


def _authors(text: str) -> str:
    """As BibTeX separates them: by "and"; "et al." is "others"."""
    text, others = re.sub(r",? et al\.", "", text), " and others" * ("et al." in text)
    names = [name.strip(" ,") for name in re.findall(rf"{_NAME}(?:\.)?", text)]
    return " and ".join(name for name in names if name) + others


def _entry(kind: str, key: str, fields: Mapping[str, str]) -> str:
    inside = ",\n".join(f"  {name} = {{{_bib(value)}}}" for name, value in fields.items())
    return f"@{kind}{{{key},\n{inside}\n}}"


def _bib(value: str) -> str:
    return value if value.startswith("{") else escaped(value)


def _number(cell: str) -> str:
    """A minus sign as mathematics sets it."""
    return re.sub(r"(?<![\w$])-(?=\d)", "$-$", cell)

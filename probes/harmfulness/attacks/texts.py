"""Jailbreaks as texts around a request: the shipped ones, and those of a file.

The shipped ones were written for headscope: well-known forms in mild words, without any content of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from interp.door import made_by, public
from probes.requests import Request, with_ending
from probes.rows import PLACE, Cells, Format, Reading, named, ours, read_items, read_lines, suffix_of, text
from probes.rows.formats import Fields

Family = Literal["template", "persuasion", "suppression", "prefix_injection", "suffix", "neutral"]
FAMILIES: tuple[Family, ...] = get_args(Family)
BUILTIN = Path(__file__).with_name("jailbreaks.jsonl")


@made_by("load_jailbreaks(file)")
@dataclass(frozen=True, repr=False)
class Jailbreak:
    """A text with ``{request}`` where the request goes.

    Args:
        id: its name; ids of one list differ.
        family: one of :data:`FAMILIES`; a "neutral" one presses for nothing: the control.
        template: the text, with ``{request}`` in it once.
        origin: how a search found it (:func:`probes.harmfulness.attacks.suffixes.find_suffixes`); None: none did.

    Raises:
        ValueError: another family, an empty id, and a template without a text around one ``{request}``.
    """

    id: str
    family: Family
    template: str
    origin: Mapping[str, Any] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ValueError(f"family={self.family!r}; expected one of {', '.join(FAMILIES)}.")
        if not self.id or self.template.count(PLACE) != 1 or not self.template.replace(PLACE, "").strip():
            raise ValueError(
                f"jailbreak {self.id!r} is {self.template!r}; expected an id and a text around one {PLACE}."
            )

    def __repr__(self) -> str:
        return f"Jailbreak({self.id!r}, {self.family}, {len(self.template)} characters)"

    def wrap(self, request: Request, ending: str | None = ".") -> Request:
        """``request`` wrapped, with the id "request+jailbreak". All end in ``ending`` (None: as they are), which takes
        the place of final punctuation; it is put after a suffix, which stays as it is to the letter."""
        text = self.template.replace(PLACE, request.text)
        wrapped = replace(request, id=f"{request.id}+{self.id}", text=text)
        if ending is None or text.endswith(ending):
            return wrapped
        return replace(wrapped, text=text + ending) if self.family == "suffix" else with_ending([wrapped], ending)[0]


@public
def load_jailbreaks(
    source: str | Path = "builtin", *, family: Family | None = None, columns: Mapping[str, str] | None = None
) -> list[Jailbreak]:
    """The 25 shipped jailbreaks, or those of a file, in its order.

    ``source``: "builtin" (the shipped ones) or the file. ``family`` keeps one family; None: all. A .txt file holds
    suffixes, one a line, as a gradient search gives them. Any other (.jsonl, .json, .csv, .tsv, .parquet, "-" for
    standard input) has a column "suffix", or "template" (or "text", "prompt", "jailbreak") with ``{request}`` in it, or
    another's place for it: [INSERT PROMPT HERE], {goal}, %s and the like. If you like, "family" (else "template") and
    "id"; "origin" is kept. ``columns``: the file's names for these.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a row can't be used; says which, what is wrong, and the remedy.

    >>> [j.id for j in load_jailbreaks(family="prefix_injection")]
    ['sure', 'of-course', 'step-one']
    """
    if family is not None and family not in FAMILIES:
        raise ValueError(f"family={family!r}; expected one of {', '.join(FAMILIES)}.")
    path = BUILTIN if source == "builtin" else source
    if suffix_of(path) == ".txt" and Path(path).expanduser().exists():
        lines = read_lines(path)
        if not lines:
            raise ValueError(f"{path}: the file is empty; expected a suffix on each line.")
        found = [Jailbreak(f"{Path(path).stem}-{n}", "suffix", f"{PLACE} {line}") for n, line in lines]
    else:
        reading = Reading(columns=columns or {})
        names = ("suffix", *_TEMPLATES, "id", "family", "origin")
        found = read_items(path, FORMATS, lambda _, cells: Jailbreak(**cells), reading, ours=names)
    kept = [j for j in found if family in (None, j.family)]
    if not kept:
        raise ValueError(f"{path} has no jailbreak of family {family!r}; it has {sorted({j.family for j in found})}.")
    return kept


def jailbreak(row: Cells, key: str, seed: int) -> list[Fields]:
    """A row's jailbreak: a suffix, or a template with a place for the request."""
    name = named(row, "id") or key
    if text(row, "suffix"):
        return [{"id": name, "family": "suffix", "template": f"{PLACE} {text(row, 'suffix')}"}]
    column = next((column for column in _TEMPLATES if text(row, column)), None)
    if column is None:
        raise ValueError(f"the columns are {', '.join(row)}; expected 'template' (with {PLACE} in it) or 'suffix'")
    origin = row.get("origin") if isinstance(row.get("origin"), Mapping) else None
    family = text(row, "family") or "template"
    return [{"id": name, "family": family, "template": ours(str(row[column]), name), "origin": origin}]


_TEMPLATES = ("template", "text", "prompt", "jailbreak")
FORMATS = {"jailbreaks": Format("jailbreaks", (), jailbreak)}

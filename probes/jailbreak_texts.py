"""Jailbreaks as texts around a request: the shipped ones, and those of a file.

The shipped ones were written for headscope: well-known forms in mild words, without any content of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from probes.question_formats import read_rows
from probes.requests import Request, with_ending

Family = Literal["template", "persuasion", "suppression", "prefix_injection", "suffix", "neutral"]
FAMILIES: tuple[Family, ...] = get_args(Family)
PLACE = "{request}"
BUILTIN = Path(__file__).with_name("data") / "jailbreaks.jsonl"


@dataclass(frozen=True)
class Jailbreak:
    """A text with ``{request}`` where the request goes. A "neutral" one presses for nothing: the control.

    ``origin``: how a search found it, if one did (:func:`probes.gradient_suffixes.find_suffixes`).
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

    def wrap(self, request: Request, ending: str | None = ".") -> Request:
        """The wrapped request, with the id "request+jailbreak". All end in ``ending`` (None: as they are), which takes
        the place of final punctuation; it is put after a suffix, which stays as it is to the letter."""
        text = self.template.replace(PLACE, request.text)
        wrapped = replace(request, id=f"{request.id}+{self.id}", text=text)
        if ending is None or text.endswith(ending):
            return wrapped
        return replace(wrapped, text=text + ending) if self.family == "suffix" else with_ending([wrapped], ending)[0]


def load_jailbreaks(source: str | Path = "builtin", *, family: Family | None = None) -> list[Jailbreak]:
    """The 25 shipped jailbreaks, or those of a file, in its order; ``family`` keeps one family.

    A .txt file holds suffixes, one a line, as a gradient search gives them. A .jsonl file (or .json, .csv, .parquet)
    has a column "suffix", or "template" with ``{request}`` in it and, if you like, "family" (else "template"); and
    "id", if you like; "origin" is kept. Raises ``FileNotFoundError``, or ``ValueError`` naming the row, what is wrong,
    and the remedy.

    >>> [j.id for j in load_jailbreaks(family="prefix_injection")]
    ['sure', 'of-course', 'step-one']
    """
    if family is not None and family not in FAMILIES:
        raise ValueError(f"family={family!r}; expected one of {', '.join(FAMILIES)}.")
    path = BUILTIN if source == "builtin" else Path(source)
    found: dict[str, Jailbreak] = {}
    for number, row in _rows(path):
        try:
            jailbreak = _parse(row, f"{path.stem}-{number}")
            if jailbreak.id in found:
                raise ValueError(f"the id {jailbreak.id!r} is there already; expected ids that differ.")
        except ValueError as error:
            raise ValueError(f"{path}, row {number}: {error}") from None
        found[jailbreak.id] = jailbreak
    kept = [j for j in found.values() if family in (None, j.family)]
    if not kept:
        raise ValueError(
            f"{path} has no jailbreak of family {family!r}; it has {sorted({j.family for j in found.values()})}."
        )
    return kept


def _rows(path: Path) -> list[tuple[str, Mapping[str, Any]]]:
    if path.suffix.lower() != ".txt" or not path.is_file():
        return read_rows(path)
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    rows = [(str(i), {"suffix": line}) for i, line in enumerate(lines, start=1) if line.strip()]
    if not rows:
        raise ValueError(f"{path}: the file is empty; expected a suffix on each line.")
    return rows


def _parse(row: Mapping[str, Any], key: str) -> Jailbreak:
    name = str(row.get("id") or key)
    if row.get("suffix"):
        return Jailbreak(name, "suffix", f"{PLACE} {str(row['suffix']).strip()}")
    if not row.get("template"):
        raise ValueError(f"the columns are {', '.join(row)}; expected 'template' (with {PLACE} in it) or 'suffix'.")
    origin = row.get("origin")
    return Jailbreak(
        name, row.get("family") or "template", str(row["template"]), origin if isinstance(origin, Mapping) else None
    )


__all__ = ["FAMILIES", "Jailbreak", "load_jailbreaks"]

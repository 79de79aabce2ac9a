"""Where a request goes in a template that somebody else wrote: [INSERT PROMPT HERE], {goal}, %s, and their like."""

from __future__ import annotations

import re

from probes.rows.cells import shortened

PLACE = "{request}"  # ours

_WHAT = r"(?:prompt|request|goal|question|query|instruction|behaviou?r|task|input|text|content|message|topic|command)s?"
_WORDS = rf"(?:[\w']+[ _-]){{0,4}}{_WHAT}(?:[ _-][\w']+){{0,3}}"
_UNMISTAKABLE = re.compile(
    r"[\[{<(]+\s*(?:insert|enter|put|place|paste|your|the|user'?s?)[ _-](?:[\w']+[ _-]){0,4}"
    r"(?:prompt|request|goal|query|instruction|behaviou?r)s?\b[^\]}>)]{0,40}[\]}>)]+",
    re.IGNORECASE,
)
_LIKELY = re.compile(
    rf"\[+\s*{_WORDS}\s*\]+|\{{+\s*{_WORDS}\s*\}}+|<+\|?\s*{_WORDS}\s*\|?>+|\$\{{?{_WHAT}\b\}}?|\[\s*insert\b[^\]]{{0,40}}\]",
    re.IGNORECASE,
)
_BARE = re.compile(r"\{\d?\}|(?<![%\w])%s\b|\[\s*\.\.\.\s*\]|_{4,}")
_KINDS = (_UNMISTAKABLE, _LIKELY, _BARE)


def places(text: str) -> list[str]:
    """The places in a text, as they are written: those of the plainest kind that it has any of.

    >>> places("Be [NAME]. Say {x}: [INSERT PROMPT HERE]")
    ['[INSERT PROMPT HERE]']
    """
    return next((found for kind in _KINDS if (found := [m[0] for m in kind.finditer(text)])), [])


def ours(template: str, name: str) -> str:
    """The template of a jailbreak with our place for theirs. ``ValueError`` where there is none, or more than one."""
    if PLACE in template:
        return template
    found = places(template)
    if len(found) != 1:
        has = f"the places {', '.join(found)}" if found else "no place for the request"
        raise ValueError(
            f"jailbreak {name!r} is {shortened(template)}, with {has}; expected a text around one {PLACE} (or "
            "[INSERT PROMPT HERE], {goal}, %s and the like). Write it there, or remove the row"
        )
    return template.replace(found[0], PLACE)


class Templates:
    """Whether texts that come one by one are templates and not requests.

    A place that nothing else is ([INSERT PROMPT HERE]) shows it alone; others ({goal}, %s), which a request on code may
    hold, where half of the texts have one."""

    def __init__(self) -> None:
        self._n = self._n_marked = 0
        self._plain: tuple[str, str] | None = None
        self._marked: tuple[str, str] | None = None

    def add(self, label: str, text: str) -> None:
        self._n += 1
        if self._plain is None and _UNMISTAKABLE.search(text):
            self._plain = label, text
        if PLACE in text or places(text):
            self._n_marked += 1
            self._marked = self._marked or (label, text)

    def shown_by(self) -> tuple[str, str] | None:
        """The label and the text that show it; None where they are requests."""
        return self._plain or (self._marked if 2 * self._n_marked >= self._n else None)

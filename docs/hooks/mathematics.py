"""An MkDocs hook: formulas of notebooks and methods as MathML, which browsers draw without another host's script."""

from __future__ import annotations

import re
from typing import Any

from bs4 import BeautifulSoup
from latex2mathml.converter import convert

_FORMULA = re.compile(r"\$\$(.+?)\$\$|\$([^$\s](?:[^$]*?[^$\s])?)\$", re.S)


def on_page_markdown(markdown: str, page: Any, **kwargs: Any) -> str:
    """Formulas of pages, before Markdown takes their underscores for emphasis."""
    return _FORMULA.sub(_mathml, markdown) if page.file.src_uri.startswith("methods/") else markdown


def on_page_content(html: str, page: Any, **kwargs: Any) -> str:
    """Formulas in the text of notebooks, and nowhere in code."""
    if not page.file.src_uri.endswith(".ipynb"):
        return html
    soup = BeautifulSoup(html, "html.parser")
    for text in soup.find_all(string=_FORMULA):
        if text.find_parent(["pre", "code", "script", "style"]) is None:
            text.replace_with(BeautifulSoup(_FORMULA.sub(_mathml, str(text)), "html.parser"))
    return str(soup)


def _mathml(found: re.Match[str]) -> str:
    block, inline = found.groups()
    made = convert(block or inline, display="block" if block else "inline")
    return made if block else f"<span>{made}</span>"  # Markdown would take it for a block of its own

"""An MkDocs hook: links from one notebook to another lead to its page on the site."""

from __future__ import annotations

import logging
import posixpath
import re
from typing import Any

from mkdocs.utils import get_relative_url

log = logging.getLogger("mkdocs.hooks.notebook_links")
_LINK = re.compile(r'href="(?P<path>[^":#?]+\.ipynb)(?P<anchor>#[^"]*)?"')


def on_page_content(html: str, page: Any, files: Any, **kwargs: Any) -> str:
    """A notebook that is not on the site is a warning, which a strict build refuses."""
    if not page.file.src_uri.endswith(".ipynb"):
        return html

    def lead_to_page(found: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(page.file.src_uri), found["path"]))
        target = files.get_file_from_path(path)
        if target is None:
            log.warning("%s links to %s, which is not on the site", page.file.src_uri, found["path"])
            return found.group()
        return f'href="{get_relative_url(target.url, page.url)}{found["anchor"] or ""}"'

    return _LINK.sub(lead_to_page, html)

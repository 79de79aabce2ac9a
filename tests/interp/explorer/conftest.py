"""Explorations made of random numbers, and a real browser to look at their pages."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from interp.explorer import Exploration, ExploredPrompt
from interp.rankings import HeadRanking

SHOTS = Path(os.environ.get("HEADSCOPE_SCREENSHOTS", "build/screenshots"))


def exploration(
    n_layers: int = 6, n_heads: int = 4, n_prompts: int = 3, n_tokens: int = 20, k: int = 4, **more: Any
) -> Exploration:
    """A ranking with a control, and prompts, of random numbers: attention that sums to one, effects of either sign."""
    r, shape = np.random.default_rng(0), (n_layers, n_heads)
    prompts = []
    for i in range(n_prompts):
        n = n_tokens + i  # no two of one length
        strongest = np.sort(r.dirichlet(np.full(8, 0.4), (*shape, n)), -1)[..., ::-1][..., :k]
        prompts.append(
            ExploredPrompt(
                f"p{i}",
                tuple(f" token{j}" for j in range(n)),
                ("No", "Yes"),
                np.array([0.5, 0.3, 0.2], np.float32),
                r.dirichlet(np.full(n, 0.1), shape).astype(np.float32),
                (r.normal(size=(*shape, n)) / 10).astype(np.float32),
                r.integers(0, n, (*shape, n, k)).astype(np.int32),
                strongest.astype(np.float32),
                (r.normal(size=(*shape, 4, 3)) / 5).astype(np.float32),
                title=f"Question {i}?",
            )
        )
    return Exploration({"nas": ranking(n_layers, n_heads)}, tuple(prompts), **more)


def ranking(n_layers: int = 6, n_heads: int = 4, seed: int = 1) -> HeadRanking:
    scores = np.random.default_rng(seed).normal(size=(12, n_layers, n_heads)) + np.arange(n_heads)
    measures = {"nas": scores, "nas_swapped_order": -scores}
    about = {"model": "random", "title": "Random heads", "created": "2026-12-01T00:00:00+00:00"}
    return HeadRanking("nas", measures, tuple(map(str, range(12))), {}, about, controls=("nas_swapped_order",))


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium, Debian's or Playwright's own."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install -e '.[test]'")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_api.sync_playwright() as playwright:
        try:
            launched = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        except sync_api.Error as error:
            pytest.skip(f"no browser: apt-get install chromium ({str(error).splitlines()[0]})")
        yield launched
        launched.close()


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Any]:
    """Opens a page from disk at a width, in a colour scheme; at the end, that it said and asked for nothing."""
    said: list[str] = []
    contexts = []

    def open_page(
        path: Path, width: int = 1280, scheme: str = "light", scripts: bool = True, ready: bool = True
    ) -> Any:
        size = {"width": width, "height": 900}
        context = browser.new_context(viewport=size, color_scheme=scheme, java_script_enabled=scripts)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: said.append(f"error: {error}"))
        page.on("request", lambda r: None if r.url.startswith(("data:", "file:", "blob:")) else said.append(r.url))
        page.goto(path.as_uri())
        if scripts and ready:
            page.wait_for_selector("#explorer[data-ready]", timeout=20_000)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not said, "the page said something, or asked for something"


def shot(page: Any, name: str) -> None:
    """Keep a screenshot as an output of the tests."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}.png", full_page=True)

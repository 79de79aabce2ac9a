"""The explorer as one HTML page: scripts, styles and data in it, forbidden by its policy to ask any host."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from interp.explorer.exploration import Exploration
from interp.explorer.packing import kept_steps, packed
from interp.figures import NEGATIVE, POSITIVE, displayed, visible
from interp.rankings import HeadRanking
from interp.reports import model_name, narrow, number
from interp.statistics import FEWEST, bracketed

WEB = Path(__file__).parent / "web"
_MOST_ROWS = 512
_MOST_TEXT = 4000  # characters of a prompt in the part for browsers without scripts


def render(exploration: Exploration, most_mb: float = 5.0) -> str:
    """The page as text, smaller than ``most_mb`` million bytes."""
    ranking, size = exploration.ranking, 0
    for kept in kept_steps(exploration):
        content = packed(exploration, kept)
        page = _page(exploration, content, kept.n_prompts)
        size = len(page.encode())
        if size <= most_mb * 1e6:
            return page
    raise ValueError(
        f"the page has {size / 1e6:.1f} MB with one prompt and its fewest tokens, of {ranking.n_layers} layers of "
        f"{ranking.n_heads} heads; at most {most_mb:g} were allowed. Allow more with most_mb=..."
    )


def summary(exploration: Exploration) -> str:
    """For a notebook without widgets: the first sentence, the map as a picture, the first ten heads."""
    ranking = exploration.ranking
    if ranking.n_examples < FEWEST:
        return f"<p><b>{escape(exploration.sentence)}</b></p>{still_map(ranking)}"
    table = narrow(ranking.top(10)[["label", "score", "ci_low", "ci_high"]], 10)
    return f"<p><b>{escape(exploration.sentence)}</b></p>{still_map(ranking)}{table}"


def still_map(ranking: HeadRanking, width: int = 420, height: int = 520) -> Markup:
    """Layers downwards, heads to the right, as an SVG that needs neither scripts nor styles."""
    means = ranking.scores.astype(np.float64).mean(0)
    n_layers, n_heads = means.shape
    base = ranking.measure.base
    far = float(np.abs(means - base).max()) or 1.0
    cell_w, cell_h = min(34.0, width / n_heads), min(18.0, height / n_layers)
    parts = []
    for (layer, head), value in np.ndenumerate(means):
        colour = NEGATIVE if value < base else POSITIVE
        parts.append(
            f'<rect x="{head * cell_w:.1f}" y="{layer * cell_h:.1f}" width="{cell_w - 0.6:.1f}" '
            f'height="{cell_h - 0.6:.1f}" fill="{colour}" fill-opacity="{abs(value - base) / far:.2f}"/>'
        )
    w, h = n_heads * cell_w, n_layers * cell_h
    said = repr(ranking).partition(": ")[2]
    label = f"Mean {displayed(ranking.score)} of each head: layers downwards, heads to the right; {said}"
    return Markup(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w:.0f} {h:.0f}" width="{w:.0f}" height="{h:.0f}" '
        f'role="img" aria-label="{escape(label)}"><rect width="{w:.0f}" height="{h:.0f}" fill="#888" '
        f'fill-opacity=".12"/>{"".join(parts)}</svg>'
    )


@cache
def environment() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(WEB), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def sealed(**parts: str) -> dict[str, Any]:
    """``script=`` and ``style=`` as the page has them, each with the hash by which its policy allows it alone."""
    found: dict[str, Any] = {}
    for name, text in parts.items():
        found[name] = Markup(text)
        found[f"{name}_hash"] = "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return found


def source(*names: str) -> str:
    """Files of this room's web folder, one behind another."""
    return "".join((WEB / name).read_text(encoding="utf-8") for name in names)


def _page(exploration: Exploration, content: bytes, n_prompts: int) -> str:
    ranking = exploration.ranking
    frame = ranking.to_frame()
    rows = [
        (row["label"], number(row["score"]), _interval(row), *[number(row[name]) for name in ranking.others])
        for row in frame.head(_MOST_ROWS).to_dict("records")
    ]
    return (
        environment()
        .get_template("explorer.html.j2")
        .render(
            title=exploration.title,
            facts=[model_name(exploration.provenance), f"{ranking.n_examples} examples", *_made(exploration)],
            sentence=exploration.sentence,
            picture=still_map(ranking),
            columns=["head", displayed(ranking.score), "95 % interval", *map(displayed, ranking.others)],
            heads=rows,
            n_heads=len(frame),
            meaning=ranking.measure.meaning,
            prompts=[_as_text(p) for p in exploration.prompts[:n_prompts]],
            footer=" ".join(map(str, exploration.provenance.get("citation") or [])),
            data=base64.b64encode(content).decode(),
            **sealed(script=source("explorer.js", "page.js"), style=source("explorer.css", "page.css")),
        )
    )


def _interval(row: Any) -> str:
    return bracketed(row["ci_low"], row["ci_high"], number) if np.isfinite(row["ci_low"]) else ""


def _made(exploration: Exploration) -> list[str]:
    created = str(exploration.provenance.get("created") or "")[:10]
    return [created] if created else []


def _as_text(prompt: Any) -> dict[str, Any]:
    text = (
        "".join(prompt.tokens) if prompt.tokens and prompt.tokens[0] != "·" else " ".join(map(visible, prompt.tokens))
    )
    if len(text) > _MOST_TEXT:
        text = f"{text[: _MOST_TEXT // 2]} … {text[-_MOST_TEXT // 2 :]}"
    words = [*prompt.answers, "anything else"]
    shares = [] if prompt.clean is None else [f"{p:.3f}" for p in prompt.clean]
    return {"id": prompt.id, "text": text, "answers": list(zip(words, shares, strict=False))}

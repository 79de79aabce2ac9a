"""What an explorer shows, as a value: rankings of heads, and prompts with what every head does in them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from interp.door import made_by, public
from interp.door.brief import brief
from interp.figures import displayed
from interp.rankings import ComparedRankings, HeadRanking
from interp.reports import Result

if TYPE_CHECKING:
    from interp.models import Model

SCALES = (0.0, 0.5, 1.5, 2.0)
"""What each head's output is multiplied by beforehand; at 1 nothing changes."""

_OF_A_REPORT = (
    "Attention and contributions are those that the ranking's report keeps: of some heads, from the answer's position. "
    "interp.explore(model, prompts, ranking=ranking) reads all heads, and lets them be turned down."
)


@dataclass(frozen=True, eq=False)
class ExploredPrompt:
    """One prompt, token by token, with what every head does in it. An array is None where it could not be read.

    tokens: as shown. answers: the words whose probabilities are followed. clean: their probabilities in the unedited
    model, and last that of everything else. attention: of each head from the answer's position. contribution: what
    the head reads from the token and writes toward the metric, in logits. sources, weights: of each token, the
    positions that each head looks at most, and how much. changes: of the natural log of each probability in ``clean``,
    where the head's output is multiplied by each of ``SCALES``. picture: the picture as a PNG file in base64, and
    grid: its rows and columns of patches, which the tokens from first_patch on are. title: what it is chosen by.
    may_harm: the texts are of requests that may be harmful, and are not shown unless asked for.
    """

    id: str
    tokens: tuple[str, ...]
    answers: tuple[str, ...] = ()
    clean: Float[np.ndarray, " answer"] | None = None
    attention: Float[np.ndarray, "layer head token"] | None = None
    contribution: Float[np.ndarray, "layer head token"] | None = None
    sources: Int[np.ndarray, "layer head token k"] | None = None
    weights: Float[np.ndarray, "layer head token k"] | None = None
    changes: Float[np.ndarray, "layer head scale answer"] | None = None
    picture: str = ""
    grid: tuple[int, int] | None = None
    first_patch: int = 0
    title: str = ""
    may_harm: bool = False

    __repr__ = brief

    def without_texts(self) -> ExploredPrompt:
        """The same with a dot in the place of every token, and without its picture: what may be shown of a prompt whose
        texts are withheld."""
        return replace(self, tokens=("·",) * len(self.tokens), picture="", grid=None, title="")


@made_by("interp.explore(model, prompts) or ranking.explore()")
@dataclass(frozen=True, eq=False, repr=False)
class Exploration(Result, report="interp.explorer.report"):
    """Rankings of heads, and prompts with what every head does in them: shown in a notebook as a widget, saved as one
    HTML page.

    rankings: by name; the first is shown. prompts: may be none. kinds: head ("L3H5") -> what kind of head it is, where
    that is known. positions: where heads were turned down for ``changes``. notes: what could not be read, and why.
    headline: the first sentence; by default the first ranking's.
    live: model and prompts, for a widget that answers live (``interp.explore``); not saved.

    Raises:
        ValueError: no ranking, and prompts of another number of layers or heads.
    """

    rankings: Mapping[str, HeadRanking]
    prompts: tuple[ExploredPrompt, ...] = ()
    kinds: Mapping[str, str] = field(default_factory=dict)
    positions: str = "answer"
    notes: tuple[str, ...] = ()
    headline: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    live: Any = field(default=None, metadata={"saved": False})

    def __post_init__(self) -> None:
        if not self.rankings:
            raise ValueError("there is no ranking to explore; give at least one.")
        shape = self.ranking.scores.shape[1:]
        for prompt in self.prompts:
            for name in ("attention", "contribution", "changes", "sources"):
                array = getattr(prompt, name)
                if array is not None and array.shape[:2] != shape:
                    raise ValueError(
                        f"prompt {prompt.id!r}: {name} is of {array.shape[:2]} layers and heads; the ranking is of "
                        f"{shape}. Give prompts and a ranking of one model."
                    )
        object.__setattr__(self, "prompts", tuple(self.prompts))
        if not self.provenance:
            object.__setattr__(self, "provenance", self.ranking.provenance)

    @property
    def ranking(self) -> HeadRanking:
        """The first ranking: the one that is shown."""
        return next(iter(self.rankings.values()))

    def withheld(self) -> Exploration:
        """The same without texts that may be harmful."""
        return replace(self, prompts=tuple(p.without_texts() if p.may_harm else p for p in self.prompts), live=None)

    @public
    def save_explorer(self, path: str | Path, *, include_replies: bool = False, most_mb: float = 5.0) -> Path:
        """Write the page: one HTML file that opens from disk and asks no host for anything; returns its path.

        Args:
            path: of the file, such as "heads.html".
            include_replies: show texts that may be harmful, which are withheld otherwise.
            most_mb: the page is made smaller than this, in steps that the page names: fewer sources of each token, then
                none, then fewer tokens of long prompts, then fewer prompts.

        Raises:
            IsADirectoryError: a folder.
            ValueError: even one prompt is larger.
        """
        path = Path(path)
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a folder; give the page a name, such as {path / 'heads.html'}.")
        page = import_module("interp.explorer.page").render(self if include_replies else self.withheld(), most_mb)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8")
        return path

    @public
    def turned(self, factors: Mapping[str, float], prompt: int = 0) -> pd.DataFrame:
        """What the answer becomes with heads turned down or up: measured by the model, which ``interp.explore`` keeps.

        Args:
            factors: head ("L17H7") -> what its output is multiplied by; an empty one leaves the model as it is.
            prompt: which of the prompts, from 0.

        Returns:
            One row for each answer, the last for everything else: answer, before, after (probabilities).

        Raises:
            ValueError: no model is at hand, as in what was read from a folder; and names that are no heads of it.
            IndexError: no such prompt.

        >>> found.turned({"L17H7": 0.0, "L21H1": 0.0})
        """
        if self.live is None:
            raise ValueError("no model is at hand to ask; make the exploration anew: interp.explore(model, prompts).")
        found = {name: re.fullmatch(r"L(\d+)H(\d+)", name) for name in factors}
        if wrong := [name for name, match in found.items() if match is None]:
            raise ValueError(f"{wrong[0]!r} is no head; expected names such as 'L17H7'.")
        heads = {(int(match[1]), int(match[2])): factors[name] for name, match in found.items() if match}
        asked = self.prompts[prompt]
        words = [*asked.answers, "anything else"]
        after = self.live.probabilities(prompt, heads)
        return pd.DataFrame({"answer": words, "before": asked.clean, "after": after}).round(4)

    def widget(self, *, include_replies: bool = False) -> Any:
        """The explorer as an anywidget, for Jupyter, VS Code and Colab. With a model at hand (``interp.explore``) the
        sliders ask it; else they read what was computed beforehand.

        include_replies: show texts that may be harmful. Raises ``ModuleNotFoundError`` without the extra ``explorer``.
        """
        return import_module("interp.explorer.widget").widget_of(
            self if include_replies else self.withheld(), self.live
        )

    @property
    def title(self) -> str:
        """Of the page."""
        return str(self.provenance.get("title") or f"Heads by {displayed(self.ranking.score)}")

    @property
    def sentence(self) -> str:
        """What is said first."""
        return self.headline or repr(self.ranking).partition(": ")[2]

    def statement(self) -> list[str]:
        """The first sentence, what else the first ranking says, and the notes."""
        first, *others = self.ranking.statement()
        return [self.headline or first, *others, *self.notes]

    def __repr__(self) -> str:
        return f"Exploration: {self.sentence}"

    def _repr_html_(self) -> str:
        return import_module("interp.explorer.page").summary(self.withheld())

    def _repr_mimebundle_(self, **_: Any) -> Any:
        """The widget where anywidget is installed; else a picture and a table."""
        try:
            shown = self.widget()._repr_mimebundle_()
        except ModuleNotFoundError:
            return {"text/plain": repr(self), "text/html": self._repr_html_()}
        data, more = shown if isinstance(shown, tuple) else (shown, {})
        return {**data, "text/plain": repr(self), "text/html": self._repr_html_()}, more


def exploration_of(result: Any, model: Model | None = None, prompts: Any = ()) -> Exploration:
    """What can be explored of a result: its ranking, or its rankings side by side, with the prompts of its views; with
    a model and prompts, also what every head does in these.

    Raises ``TypeError`` for a result without a ranking of heads.

    Cost: no pass; with ``model`` and ``prompts`` that of :func:`interp.explore`.
    """
    if isinstance(result, Exploration) and model is None:
        return result
    rankings, more = _ranking_in(result), {}
    if isinstance(result, ComparedRankings):
        title = f"Heads side by side: {' and '.join(rankings)}"
        more = {"headline": result.statement()[0], "provenance": {**result.provenance, "title": title}}
    if model is not None:
        return import_module("interp.explorer.exploring").explore(model, prompts, ranking=rankings)
    views = next(iter(rankings.values())).views
    notes = (_OF_A_REPORT,) if views else ()
    shape = next(iter(rankings.values())).scores.shape[1:]
    return Exploration(rankings, tuple(_from_view(view, shape) for view in views), notes=notes, **more)


def _ranking_in(result: Any) -> dict[str, HeadRanking]:
    if isinstance(result, Exploration | ComparedRankings):
        return dict(result.rankings)
    found = result if isinstance(result, HeadRanking) else getattr(result, "ranking", None)
    if callable(found):
        found = found()
    if not isinstance(found, HeadRanking):
        raise TypeError(
            f"a {type(result).__name__} holds no ranking of heads to explore. Explore a ranking, or a model on "
            "prompts: interp.explore(model, prompts)."
        )
    return {found.score: found}


def _from_view(view: Any, shape: tuple[int, ...]) -> ExploredPrompt:
    """A report's view of a prompt: NaN for the heads that it does not have."""
    n = len(view.tokens)
    found = {kind: np.full((*shape, n), np.nan, np.float32) for kind in ("attention", "contribution")}
    for (layer, head), values in view.heads.items():
        for kind, array in values.items():
            found[kind][layer, head] = array
    kept = {kind: array for kind, array in found.items() if np.isfinite(array).any()}
    return ExploredPrompt(view.example_id, view.tokens, title=view.title, **kept)

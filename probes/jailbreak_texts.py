"""Jailbreaks as texts around a request: the shipped ones, those of a file, and suffixes from a gradient search.

The shipped ones were written for headscope: well-known forms in mild words, without any content of their own.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from interp.model import Model
from probes.question_formats import read_rows
from probes.requests import Request, with_ending

Family = Literal["template", "persuasion", "suppression", "prefix_injection", "suffix", "neutral"]
FAMILIES: tuple[Family, ...] = get_args(Family)
PLACE = "{request}"
BUILTIN = Path(__file__).with_name("data") / "jailbreaks.jsonl"


@dataclass(frozen=True)
class Jailbreak:
    """A text with ``{request}`` where the request goes. A "neutral" one presses for nothing: the control."""

    id: str
    family: Family
    template: str

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
    "id", if you like. Raises ``FileNotFoundError``, or ``ValueError`` naming the row, what is wrong, and the remedy.

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
    return Jailbreak(name, row.get("family") or "template", str(row["template"]))


def search_suffix(
    model: Model,
    request: Request,
    target: str = "Sure, here is",
    *,
    system: str | None = None,
    ending: str = ".",
    start: str = " x x x x x x x x x x",
    n_steps: int = 100,
    search_width: int = 64,
    top_k: int = 64,
    seed: int = 0,
) -> Jailbreak:
    """A suffix for one request and this model that makes ``target`` likely as the reply's beginning, by greedy
    coordinate gradient (Zou et al. 2023, arXiv 2307.15043), as nanogcg implements it.

    nanogcg is not a dependency: it asks for transformers below 4.48. Version 0.3.0 works with what headscope uses
    (tried on transformers 5.23 and torch 2.13) if it is installed without its requirements, ``pip install --no-deps
    nanogcg``, and without its prefix cache, which indexes a cache object that is no longer a list; so each step costs
    ``search_width`` passes over the whole prompt: hours for a model of 0.5B on a CPU. Suffixes found elsewhere can be
    read from a file: :func:`load_jailbreaks`. The search knows of ``ending``, which stands behind the suffix.

    Raises ``ImportError`` where nanogcg is missing.
    """
    try:
        nanogcg = importlib.import_module("nanogcg")
    except ImportError as error:
        raise ImportError(
            "search_suffix needs nanogcg, which is not installed. Its requirements would replace transformers, so: "
            "pip install --no-deps nanogcg==0.3.0. Or read suffixes from a file with load_jailbreaks."
        ) from error
    head = [] if system is None else [{"role": "system", "content": system}]
    messages = [*head, {"role": "user", "content": f"{request.text}{{optim_str}}{ending}"}]
    config = nanogcg.GCGConfig(
        num_steps=n_steps,
        optim_str_init=start,
        search_width=search_width,
        topk=top_k,
        use_prefix_cache=False,
        verbosity="ERROR",
    )
    with torch.random.fork_rng():  # not nanogcg's own seed, which also changes torch's settings for good
        torch.manual_seed(seed)
        suffix = nanogcg.run(model.hf, model.tokenizer, messages, target, config).best_string
    return Jailbreak(f"suffix-of-{request.id}", "suffix", f"{PLACE}{suffix}")


__all__ = ["FAMILIES", "Jailbreak", "load_jailbreaks", "search_suffix"]

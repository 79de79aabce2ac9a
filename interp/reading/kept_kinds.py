"""The table of a model's kinds of heads, kept in memory, and beside the weights of a model that was built in."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd
import torch

from interp.door.brief import brief
from interp.passes import tolerance
from interp.records import write_atomically
from interp.sources import BUILTIN, cache_dir

if TYPE_CHECKING:
    from interp.models import Model
    from interp.prompts import Prompt

VERSION = 1
"""Of what the scores are; raised when they change, so that older files are not read."""
N_LOGITS = 64

_in_memory: WeakKeyDictionary[torch.nn.Module, tuple[dict[str, Any], pd.DataFrame]] = WeakKeyDictionary()


@dataclass(eq=False)
class KeptKinds:
    """What was kept for a model as it is now, known by a few logits of one prompt. Making one costs a pass.

    Args:
        model: whose heads. prompt: one of those that they are scored on. settings: how many of which length and seed.
    """

    model: Model
    prompt: Prompt
    settings: tuple[int, int, int]

    __repr__ = brief

    def __post_init__(self) -> None:
        logits = self.model.final_logits([self.prompt])[0].double().numpy()
        self._size = float(np.sqrt(np.square(logits).mean()))
        chosen = logits[np.linspace(0, len(logits) - 1, N_LOGITS).astype(int)]
        self._key = {"version": VERSION, "settings": list(self.settings), "logits": chosen.tolist()}

    def read(self) -> pd.DataFrame | None:
        """The table; None where none was kept, or of another computation."""
        kept = _in_memory.get(self.model.hf)
        if kept is None and (path := self._path()) is not None:
            with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):  # none, or damaged: made anew
                record = json.loads(path.read_text(encoding="utf-8"))
                kept = record["of"], pd.DataFrame(record["kinds"])
        if kept is None or not self._is_of(kept[0]):
            return None
        _in_memory[self.model.hf] = kept
        return kept[1].copy()

    def write(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Keep the table, and give a copy."""
        _in_memory[self.model.hf] = self._key, frame
        if (path := self._path()) is not None and path.parent.is_dir():
            record = json.dumps({"of": self._key, "kinds": frame.to_dict(orient="list")})
            with suppress(OSError):  # a cache that can't be written is made anew each time
                write_atomically(path, lambda file: file.write_text(record, encoding="utf-8"))
        return frame.copy()

    def _path(self) -> Path | None:
        """Beside the weights, in our own cache; no other folder is written to."""
        built_in = BUILTIN.get(self.model.name) if self.model.source.get("kind") == "builtin" else None
        return None if built_in is None else cache_dir() / "models" / built_in.directory_name / "headscope.kinds.json"

    def _is_of(self, key: dict[str, Any]) -> bool:
        logits = np.asarray(key.get("logits", []), np.float64)
        if key.get("version") != VERSION or key.get("settings") != list(self.settings) or len(logits) != N_LOGITS:
            return False
        apart = np.abs(logits - self._key["logits"]).max()
        return bool(apart <= 10 * tolerance(self.model) * self._size)

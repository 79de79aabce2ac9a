"""One ranking from start to end: its identity, resumable scoring, provenance, and the report in its folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from interp import statistics
from interp.model import Model
from interp.provenance import hash_json, now, versions
from interp.ranking import HeadRanking
from interp.storage import load_ranking, refuse_other_run, saved_run
from interp.work import clear_parts, prepare_directory, require_parts_of, run_batches
from probes.questions import Question, hash_questions

Item = TypeVar("Item")


@dataclass(frozen=True)
class Run:
    """The settings of a ranking (their hash is its id), and where its work and its report go, if anywhere.

    ``resume`` continues the part files of the same settings, or reads a finished report of them back; ``overwrite``
    replaces the report of another run.
    """

    title: str
    model: Model
    data: dict[str, Any]
    settings: dict[str, Any]
    batch_size: int
    out: Path | None = None
    resume: bool = False
    overwrite: bool = False
    began: float = field(default_factory=time.perf_counter)
    identity: dict[str, Any] = field(init=False)
    described_model: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        described = self.model.provenance()
        named = {k: described[k] for k in ("architecture", "weights_sha256", "template_sha256", "dtype")}
        # nothing here that another machine or a new conversion of the same weights would change
        identity = {"title": self.title, "model": named, "data": self.data["sha256"]} | self.settings
        object.__setattr__(self, "identity", identity)
        object.__setattr__(self, "described_model", described)
        if self.out is not None:
            object.__setattr__(self, "out", Path(self.out))

    @property
    def parts_settings(self) -> dict[str, Any]:
        """What part files must agree in: the run, and how it is cut into batches."""
        return self.identity | {"batch_size": self.batch_size, "n_items": self.data["n"]}

    @property
    def id(self) -> str:
        """Twelve hex digits: the same weights, template, data and settings give the same id."""
        return hash_json(self.identity)[:12]

    def finished(self) -> HeadRanking | None:
        """The saved report of these very settings, if ``resume`` asks for it and it is there. Raises
        ``FileExistsError`` now, before any work, if saving would be refused later."""
        if self.out is None:
            return None
        if not self.overwrite:
            refuse_other_run(self.out, self.id)
        scores_mib = 8 * self.data["n"] * self.model.n_layers * self.model.n_heads * 4 / 2**20
        prepare_directory(self.out, need_mib=20 + 3 * scores_mib)
        require_parts_of(self.out, self.parts_settings, self.resume, discard=self.overwrite)
        if self.resume and (saved_run(self.out) or {}).get("run_id") == self.id:
            return load_ranking(self.out)
        return None

    def score(
        self, items: Sequence[Item], score: Callable[[Sequence[Item]], dict[str, np.ndarray]]
    ) -> dict[str, np.ndarray]:
        """``score`` over batches of items, kept in part files under ``out`` as they come."""
        return run_batches(
            items,
            score,
            batch_size=self.batch_size,
            directory=self.out,
            settings=self.parts_settings,
            resume=self.resume,
            title=self.title,
        )

    def provenance(self, method: str, citation: Sequence[str], caveats: Sequence[str], **more: Any) -> dict[str, Any]:
        return {
            "run_id": self.id,
            "title": f"{self.title} of {self.model.name}",
            "method": method,
            "model": self.described_model,
            "data": self.data,
            "settings": self.settings | {"batch_size": self.batch_size},
            "statistics": {
                "seed": statistics.SEED,
                "bootstrap_resamples": statistics.N_BOOTSTRAP,
                "interval": statistics.CONFIDENCE,
            },
            "versions": versions(),
            "created": now(),
            "seconds": round(time.perf_counter() - self.began, 1),
            "citation": list(citation),
            "caveats": list(caveats),
            **more,
        }

    def save(self, ranking: HeadRanking) -> HeadRanking:
        """Write the report to ``out``, if given, and clear the part files."""
        if self.out is not None:
            ranking.save(self.out, overwrite=self.overwrite)
            clear_parts(self.out)
        return ranking


def describe_questions(questions: Sequence[Question], origin: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What provenance says of the data: hash, counts, domains, and ``origin`` (file, limit, seed of the sample)."""
    return {
        **(origin or {}),
        "sha256": hash_questions(questions),
        "n": len(questions),
        "n_yes": sum(q.answer == "Yes" for q in questions),
        "domains": sorted({q.domain for q in questions if q.domain}),
    }

"""One ranking from start to end: its identity, resumable scoring, provenance, and the report in its folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from interp import statistics
from interp.answer_mass import answer_mass
from interp.model import Model
from interp.prompts import Prompt
from interp.provenance import hash_json, now, versions
from interp.ranking import HeadRanking
from interp.storage import is_whole, load_ranking, refuse_other_run, saved_run
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
        object.__setattr__(self, "identity", _identity(self.title, described, self.data, self.settings))
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
        return _id(self.identity)

    def is_finished(self) -> bool:
        """Whether ``out`` holds the report of these very settings and ``resume`` asks for it. Raises
        ``FileExistsError`` now, before any work, if saving would be refused later."""
        if self.out is None:
            return False
        scores_mib = 8 * self.data["n"] * self.model.n_layers * self.model.n_heads * 4 / 2**20
        need_mib = 20 + 3 * scores_mib
        require_place(self.out, self.id, self.parts_settings, self.resume, self.overwrite, need_mib)
        return self.resume and (saved_run(self.out) or {}).get("run_id") == self.id and is_whole(self.out)

    def finished(self) -> HeadRanking | None:
        """The ranking of a run that :meth:`is_finished`; None if there is none."""
        return load_ranking(self.out) if self.is_finished() else None

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
        head = {"run_id": self.id, "title": f"{self.title} of {self.model.name}", "method": method}
        settings = self.settings | {"batch_size": self.batch_size}
        return head | _provenance(self.described_model, self.data, settings, citation, caveats, self.began) | more

    def save(self, ranking: HeadRanking) -> HeadRanking:
        """Write the report to ``out``, if given, and clear the part files."""
        if self.out is not None:
            ranking.save(self.out, overwrite=self.overwrite)
            clear_parts(self.out)
        return ranking


def study_provenance(
    title: str,
    model: Model,
    data: dict[str, Any],
    settings: dict[str, Any],
    citation: Sequence[str],
    caveats: Sequence[str],
    began: float,
    **more: Any,
) -> dict[str, Any]:
    """What a study's findings need to be traced and repeated; ``began`` is ``time.perf_counter()`` at its start.

    The ``run_id`` is a function of the weights, the template, the data and the settings, as for a ranking.
    """
    described = model.provenance()
    head = {"run_id": _id(_identity(title, described, data, settings)), "title": f"{title} of {model.name}"}
    return head | _provenance(described, data, settings, citation, caveats, began) | more


def _identity(title: str, model: dict[str, Any], data: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """What makes a run this run: nothing that another machine or a new conversion of the same weights would change."""
    named = {k: model[k] for k in ("architecture", "weights_sha256", "template_sha256", "dtype")}
    named |= {k: model[k] for k in ("chat", "template_arguments") if k in model}
    return {"title": title, "model": named, "data": data["sha256"]} | settings


def _id(identity: dict[str, Any]) -> str:
    return hash_json(identity)[:12]


def _provenance(
    model: dict[str, Any],
    data: dict[str, Any],
    settings: dict[str, Any],
    citation: Sequence[str],
    caveats: Sequence[str],
    began: float,
) -> dict[str, Any]:
    return {
        "model": model,
        "data": data,
        "settings": settings,
        "statistics": {
            "seed": statistics.SEED,
            "bootstrap_resamples": statistics.N_BOOTSTRAP,
            "interval": statistics.CONFIDENCE,
        },
        "versions": versions(),
        "created": now(),
        "seconds": round(time.perf_counter() - began, 1),
        "citation": list(citation),
        "caveats": list(caveats),
    }


def mass_read(
    model: Model, prompts: Sequence[Prompt], batch_size: int = 8, held: np.ndarray | None = None
) -> dict[str, Any]:
    """What a provenance says of the answers' probability (:func:`interp.answer_mass.answer_mass`), as its key
    "answer_mass"; {} for prompts without answers. Warns below 10 %, with what the model would rather say."""
    found = answer_mass(model, prompts, batch_size=batch_size, held=held, warn=True)
    return {} if found is None else {"answer_mass": found.to_dict()}


def require_place(
    out: Path, run_id: str, parts: Mapping[str, Any], resume: bool, overwrite: bool, need_mib: float
) -> None:
    """Refuse, before any work, what saving would refuse later: another run's report, another run's part files
    (``overwrite`` discards both), a folder that can't be written."""
    if not overwrite:
        refuse_other_run(out, run_id)
    prepare_directory(out, need_mib)
    require_parts_of(out, parts, resume, discard=overwrite)


def describe_questions(questions: Sequence[Question], origin: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What provenance says of the data: hash, counts, domains, and ``origin`` (file, limit, seed of the sample)."""
    return {
        **(origin or {}),
        "sha256": hash_questions(questions),
        "n": len(questions),
        "n_yes": sum(q.answer == "Yes" for q in questions),
        "domains": sorted({q.domain for q in questions if q.domain}),
    }

"""One ranking from start to end: its identity, resumable scoring, provenance, and the report in its folder."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from interp.edits import named_adapters
from interp.models import Model, measured_mass
from interp.passes import PARTS, hash_prompts, identity_of, same_fingerprint, tolerance
from interp.prompts import Prompt
from interp.rankings import HeadRanking, load_ranking
from interp.records import clear_parts, hash_json, now, prepare_directory, require_parts_of, run_batches, versions
from interp.records.work import OtherRunError
from interp.reports import is_whole, refuse_other_run, saved_run
from interp.statistics import estimates as statistics

Item = TypeVar("Item")


@dataclass(frozen=True)
class Run:
    """The settings of a ranking (their hash is its id), and where its work and its report go, if anywhere.

    ``resume`` continues the part files of the same settings, or reads a finished report of them back; ``overwrite``
    replaces the report of another run.
    """

    title: str
    model: Model
    prompts: InitVar[Iterable[Prompt]]  # all that the run reads: their token ids are a part of what it is
    data: dict[str, Any]
    settings: dict[str, Any]
    batch_size: int
    out: Path | None = None
    resume: bool = False
    overwrite: bool = False
    began: float = field(default_factory=time.perf_counter)
    identity: dict[str, Any] = field(init=False)
    described_model: dict[str, Any] = field(init=False)

    def __post_init__(self, prompts: Iterable[Prompt]) -> None:
        if self.out is not None:
            object.__setattr__(self, "out", Path(self.out))
        described, prompts_sha256 = _computation(self.model, self.out), hash_prompts(prompts)
        identity = _identity(self.title, described, prompts_sha256, self.data, self.settings)
        object.__setattr__(self, "identity", identity)
        object.__setattr__(self, "described_model", described)

    @property
    def parts_settings(self) -> dict[str, Any]:
        """What part files must agree in: the run, and how it is cut into batches."""
        cut = {"batch_size": self.batch_size, "n_items": self.data["n"]}
        return self.identity | {"fingerprint": self.described_model["fingerprint"]} | cut

    @property
    def id(self) -> str:
        """Twelve hex digits: the same computation, prompts, data and settings give the same id."""
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
        known = _provenance(self.described_model, self.identity["prompts_sha256"], self.data, settings)
        return head | known | _signed(self.described_model, citation, caveats, self.began) | more

    def save(self, ranking: HeadRanking) -> HeadRanking:
        """Write the report to ``out``, if given, and clear the part files."""
        if self.out is not None:
            ranking.save(self.out, overwrite=self.overwrite)
            clear_parts(self.out)
        return ranking


def study_provenance(
    title: str,
    model: Model,
    prompts: Iterable[Prompt],
    data: dict[str, Any],
    settings: dict[str, Any],
    citation: Sequence[str],
    caveats: Sequence[str],
    began: float,
    out: str | Path | None = None,
    **more: Any,
) -> dict[str, Any]:
    """What a study's findings need to be traced and repeated; ``began`` is ``time.perf_counter()`` at its start.

    The ``run_id`` is a function of the computation (:mod:`interp.passes.identity`: weights, active adapters, applied
    edits, a fingerprint of the logits), the token ids of the ``prompts``, the data and the settings, as for a ranking.
    ``out``: where the study keeps its work, if anywhere; a fingerprint that was recorded there, and is this one but for
    rounding, is taken for it.
    """
    described, prompts_sha256 = _computation(model, None if out is None else Path(out)), hash_prompts(prompts)
    run_id = _id(_identity(title, described, prompts_sha256, data, settings))
    known = _provenance(described, prompts_sha256, data, settings)
    head = {"run_id": run_id, "title": f"{title} of {model.name}"}
    return head | known | _signed(described, citation, caveats, began) | more


def parts_identity(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """What the part files of a study must agree in, beside its own settings: what computed, what was read, what the
    data is. Of :func:`study_provenance`."""
    known = identity_of(provenance["model"], provenance["prompts_sha256"])
    return known | {"fingerprint": provenance["model"]["fingerprint"], "data": provenance["data"]["sha256"]}


def _computation(model: Model, out: Path | None) -> dict[str, Any]:
    """The model's provenance; its fingerprint as it was recorded in ``out``, where it is the same but for rounding."""
    described = model.provenance()
    ours, within = described["fingerprint"], tolerance(model)
    recorded = _recorded_fingerprints(out) if out is not None else []
    if same := [there for there in recorded if same_fingerprint(ours, there, within)]:
        return described | {"fingerprint": same[0]}
    if any(there.get("key") == ours["key"] for there in recorded):  # rounded alike, and yet another computation
        return described | {"fingerprint": ours | {"key": hash_json(ours["values"])[:12]}}
    return described


def _recorded_fingerprints(out: Path) -> list[dict[str, Any]]:
    """Of the report and of the unfinished work in a folder."""
    model = (saved_run(out) or {}).get("model")
    found = [model.get("fingerprint") if isinstance(model, Mapping) else None]
    try:
        work = json.loads((out / "parts" / "run.json").read_text(encoding="utf-8"))
        found.append(work["settings"]["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError):  # none there, or damaged: whoever reads it to go on says so
        pass
    return [there for there in found if isinstance(there, dict) and isinstance(there.get("values"), list)]


def _identity(
    title: str, model: dict[str, Any], prompts_sha256: str, data: dict[str, Any], settings: dict[str, Any]
) -> dict[str, Any]:
    """What makes a run this run: nothing that another machine or a new conversion of the same weights would change."""
    return {"title": title, **identity_of(model, prompts_sha256), "data": data["sha256"]} | settings


def _id(identity: dict[str, Any]) -> str:
    return hash_json(identity)[:12]


def _provenance(
    model: dict[str, Any], prompts_sha256: str, data: dict[str, Any], settings: dict[str, Any]
) -> dict[str, Any]:
    return {
        "model": model,
        "prompts_sha256": prompts_sha256,
        "data": data,
        "settings": settings,
        "statistics": {
            "seed": statistics.SEED,
            "bootstrap_resamples": statistics.N_BOOTSTRAP,
            "interval": statistics.CONFIDENCE,
        },
    }


def _signed(model: dict[str, Any], citation: Sequence[str], caveats: Sequence[str], began: float) -> dict[str, Any]:
    """Versions, time, sources, and what a reader must know first: that it is not the bare model that was measured."""
    return {
        "versions": versions(),
        "created": now(),
        "seconds": round(time.perf_counter() - began, 1),
        "citation": list(citation),
        "caveats": [*said_of_computation(model), *caveats],
    }


def mass_read(
    model: Model, prompts: Sequence[Prompt], batch_size: int = 8, held: np.ndarray | None = None
) -> dict[str, Any]:
    """What a provenance says of the answers' probability (:func:`interp.models.answer_mass.answer_mass`), as its key
    "answer_mass"; {} for prompts without answers. Warns below 10 %, with what the model would rather say."""
    found = measured_mass(model, prompts, batch_size=batch_size, held=held, warn=True)
    return {} if found is None else {"answer_mass": found.to_dict()}


def said_of_computation(model: Mapping[str, Any]) -> list[str]:
    """Sentences on the adapters, edits and hooks that were active when something was measured."""
    said = []
    if model.get("adapters"):
        said.append(f"Measured with the {named_adapters(model['adapters'])} active.")
    said += [f"Measured while an edit was applied: {edit['summary']}" for edit in model.get("edits") or ()]
    if model.get("hooks"):
        said.append(f"Measured with what somebody put on the model: {'; '.join(model['hooks'])}.")
    return said


def require_place(
    out: Path, run_id: str, parts: Mapping[str, Any], resume: bool, overwrite: bool, need_mib: float
) -> None:
    """Refuse, before any work, what saving would refuse later: another run's report, another run's part files
    (``overwrite`` discards both), a folder that can't be written. The refusal names what differs."""
    if not overwrite:
        try:
            refuse_other_run(out, run_id)
        except FileExistsError as error:
            differing = _differences(saved_run(out) or {}, parts)
            raise OtherRunError(f"{error} The two differ in {differing}." if differing else str(error)) from None
    prepare_directory(out, need_mib)
    require_parts_of(out, parts, resume, discard=overwrite)


def _differences(was: Mapping[str, Any], parts: Mapping[str, Any]) -> str:
    """In what the run of a saved report differs from the run of these part files, in words."""
    model = was.get("model")
    if not isinstance(model, Mapping) or "prompts_sha256" not in was:
        return ""
    there = identity_of(model, was["prompts_sha256"]) | {"fingerprint": model.get("fingerprint")}
    found = [words for name, words in PARTS.items() if name in parts and parts[name] != there.get(name)]
    data = was.get("data")
    if "data" in parts and not (isinstance(data, Mapping) and data.get("sha256") == parts["data"]):
        found.append("the data")
    elif parts.get("prompts_sha256") not in (None, there["prompts_sha256"]):
        found.append("the prompts' token ids, of the same data (does the template write a date?)")
    settings = was.get("settings")
    if isinstance(settings, Mapping):
        found += [name for name in settings if name in parts and parts[name] != settings[name]]
    return ", ".join(found)

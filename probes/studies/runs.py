"""What a run of a study is: its identity and provenance, and the folder that is refused before any work."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from interp import statistics
from interp.edits import named_adapters
from interp.models import Model, measured_mass
from interp.passes import PARTS, hash_prompts, identity_of, same_fingerprint, tolerance
from interp.prompts import Prompt
from interp.records import hash_json, place_of, prepare_directory, require_parts_of, versions
from interp.records.folder_lock import OtherRunError
from interp.reports import refuse_other_run, saved_run


def study_provenance(
    title: str,
    model: Model,
    prompts: Iterable[Prompt],
    data: dict[str, Any],
    settings: dict[str, Any],
    citation: Sequence[str],
    caveats: Sequence[str],
    out: Path | None = None,
) -> dict[str, Any]:
    """What a study's findings need to be traced and repeated, but for the time.

    The ``run_id`` is a function of the computation (:mod:`interp.passes.identity`: weights, active adapters, applied
    edits, a fingerprint of the logits), the token ids of the ``prompts``, the data and the settings: of nothing that
    another machine or a new conversion of the same weights would change.
    ``out``: where the study keeps its work, if anywhere; a fingerprint that was recorded there, and is this one but for
    rounding, is taken for it.
    """
    described, prompts_sha256 = _computation(model, out), hash_prompts(prompts)
    identity = {"title": title, **identity_of(described, prompts_sha256), "data": data["sha256"]} | settings
    return {
        "run_id": hash_json(identity)[:12],
        "title": f"{title} of {model.name}",
        "model": described,
        "prompts_sha256": prompts_sha256,
        "data": data,
        "settings": settings,
        "statistics": {
            "seed": statistics.SEED,
            "bootstrap_resamples": statistics.N_BOOTSTRAP,
            "interval": statistics.CONFIDENCE,
        },
        "versions": versions(),
        "citation": list(citation),
        "caveats": [*said_of_computation(described), *caveats],  # first that it is not the bare model
    }


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
    """Of the report and of the unfinished work in a folder; of a shard, also in those of the others."""
    model = (saved_run(out) or {}).get("model")
    found = [model.get("fingerprint") if isinstance(model, Mapping) else None]
    place = place_of(out)
    for folder in [out, *(place.beside() if place else [])]:
        try:
            work = json.loads((folder / "parts" / "run.json").read_text(encoding="utf-8"))
            found.append(work["settings"]["fingerprint"])
        except (OSError, ValueError, KeyError, TypeError):  # none, or damaged: whoever reads it to go on says so
            pass
    return [there for there in found if isinstance(there, dict) and isinstance(there.get("values"), list)]


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

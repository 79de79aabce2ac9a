"""Save a ranking to a directory of open formats, and load it again. No pickle.

    ranking.csv, ranking.parquet   the table, one row for each head
    scores.safetensors             every measure [example, layer, head] and the arrays of the views, float32
    report.html                    for reading
    report.json                    everything else, with the SHA-256 of the files above; written last

Files are written under temporary names and then moved, so no final name ever holds half a file. If saving
fails, the files that were there before are put back. Other files in the directory are left alone.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from interp import report
from interp.comparison import control_summary
from interp.ranking import HeadRanking
from interp.views import TokenView, head_label

FORMAT_VERSION = 1
FILES = (
    "ranking.csv",
    "ranking.parquet",
    "scores.safetensors",
    "report.html",
    "report.json",
)  # in order of arrival


def save_ranking(ranking: HeadRanking, directory: str | Path, overwrite: bool = False) -> Path:
    """Write the files above into `directory`, which is made if needed; returns it.

    A report of the same run (equal `provenance["run_id"]`) is replaced. Raises FileExistsError if the
    directory holds a report of another run, or of one that cannot be told, unless `overwrite`.
    """
    directory = Path(directory)
    if directory.exists() and not directory.is_dir():
        raise NotADirectoryError(f"{directory} is a file; expected a directory, or a path that does not exist yet.")
    if not overwrite:
        refuse_other_run(directory, ranking.provenance.get("run_id"))
    directory.mkdir(parents=True, exist_ok=True)
    # inside the directory, not beside it: the same file system, so that moving is atomic
    with tempfile.TemporaryDirectory(prefix=".saving-", dir=directory, ignore_cleanup_errors=True) as temporary:
        new, old = Path(temporary) / "new", Path(temporary) / "old"
        new.mkdir()
        old.mkdir()
        _write(ranking, new)
        _replace(new, directory, backup=old)
    return directory


def load_ranking(directory: str | Path) -> HeadRanking:
    """The ranking that `save_ranking` wrote: equal measures bit for bit, equal views and provenance."""
    directory = Path(directory)
    if not directory.is_dir():
        raise FileNotFoundError(f"No directory {directory}; expected one that `HeadRanking.save` wrote.")
    for name in ("report.json", "scores.safetensors"):
        if not (directory / name).is_file():
            raise FileNotFoundError(
                f"{directory} has no {name}, so it is not a finished, saved ranking. If its run was "
                "interrupted, run the same command again: it continues."
            )
    data = _read_report(directory / "report.json")
    content = (directory / "scores.safetensors").read_bytes()
    if hashlib.sha256(content).hexdigest() != data["sha256"]["scores.safetensors"]:
        raise ValueError(
            f"{directory / 'scores.safetensors'} is not the file that report.json describes (its SHA-256 "
            "differs): it was changed or damaged, or saving was interrupted. Copy or save the ranking "
            "again."
        )
    try:
        tensors = load_tensors(content)
    except SafetensorError as error:
        raise ValueError(f"{directory / 'scores.safetensors'} cannot be read ({error}). Copy it again.") from error
    views = tuple(
        TokenView(
            view["example_id"],
            view["title"],
            tuple(view["tokens"]),
            {
                (entry["layer"], entry["head"]): {kind: tensors[key] for kind, key in entry["arrays"].items()}
                for entry in view["heads"]
            },
        )
        for view in data["views"]
    )
    return HeadRanking(
        score=data["score"],
        measures={name: tensors[_measure_key(name)] for name in data["measures"]},
        example_ids=tuple(data["example_ids"]),
        descriptions=data["descriptions"],
        provenance=data["provenance"],
        views=views,
        controls=tuple(data.get("controls", ())),  # a file from before there were controls names none
    )


def _write(ranking: HeadRanking, directory: Path) -> None:
    frame = ranking.to_frame()
    frame.to_csv(directory / "ranking.csv", index=False)
    frame.to_parquet(directory / "ranking.parquet", index=False)
    tensors: dict[str, np.ndarray] = {_measure_key(name): array for name, array in ranking.measures.items()}
    views = []
    for i, view in enumerate(ranking.views):
        heads = []
        for (layer, head), values in view.heads.items():
            keys = {kind: f"views/{i}/{head_label(layer, head)}/{kind}" for kind in values}
            tensors |= {keys[kind]: array for kind, array in values.items()}
            heads.append({"layer": layer, "head": head, "arrays": keys})
        views.append({"example_id": view.example_id, "title": view.title, "tokens": list(view.tokens), "heads": heads})
    content = save_tensors(tensors, metadata={"format": "headscope ranking"})
    (directory / "scores.safetensors").write_bytes(content)
    (directory / "report.html").write_text(report.render(ranking), encoding="utf-8")
    data = {
        "format_version": FORMAT_VERSION,
        "score": ranking.score,
        "summary": {
            "n_examples": ranking.n_examples,
            "n_layers": ranking.n_layers,
            "n_heads": ranking.n_heads,
            "statement": report.statement(ranking),
            "top": ranking.top(20).to_dict("records"),
            "reliability": ranking.reliability._asdict(),
            "controls": control_summary(ranking).to_dict("records"),
        },
        "provenance": ranking.provenance,
        "measures": list(ranking.measures),
        "controls": list(ranking.controls),
        "descriptions": ranking.descriptions,
        "example_ids": list(ranking.example_ids),
        "views": views,
        "sha256": {name: hashlib.sha256((directory / name).read_bytes()).hexdigest() for name in FILES[:-1]},
    }
    text = json.dumps(_plain(data), indent=1, ensure_ascii=False, allow_nan=False)
    (directory / "report.json").write_text(text + "\n", encoding="utf-8")
    for name in FILES:  # on the disk before a final name points to it
        with open(directory / name, "rb+") as file:
            os.fsync(file.fileno())


def _replace(new: Path, directory: Path, backup: Path) -> None:
    """Move the new files in; put the old ones back if that fails half way."""
    for name in FILES:
        if (directory / name).exists():
            shutil.copy2(directory / name, backup / name)
    moved = []
    try:
        for name in FILES:
            os.replace(new / name, directory / name)
            moved.append(name)
    except BaseException:
        for name in moved:
            if (backup / name).exists():
                os.replace(backup / name, directory / name)
            else:
                (directory / name).unlink()
        raise


def saved_run(directory: str | Path) -> dict[str, Any] | None:
    """The provenance of the report in a directory; None if there is none, empty if it cannot be read."""
    path = Path(directory) / "report.json"
    if not path.exists():
        return None
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["provenance"])
    except (ValueError, KeyError, TypeError):
        return {}


def refuse_other_run(directory: str | Path, run_id: str | None) -> None:
    """Raise FileExistsError if the directory holds a report of another run than `run_id` (None: of any run)."""
    found = saved_run(directory)
    there = (found or {}).get("run_id")
    if found is None or (there is not None and there == run_id):
        return
    which = f"run {there!r}" if there is not None else "a run without a run_id"
    when = f" of {found['created']}" if found.get("created") else ""
    this = f"; this is run {run_id!r}" if run_id else ""
    raise FileExistsError(
        f"{directory} already holds the report of {which}{when}{this}. Save to another directory (--out), or "
        "replace it with overwrite=True (--overwrite)."
    )


def _read_report(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}): damaged or edited. Copy or save it again.") from error
    version = data.get("format_version") if isinstance(data, dict) else None
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format_version {version!r}; this version of headscope reads {FORMAT_VERSION}. "
            "Load it with the version that wrote it (see provenance in the file), or run again."
        )
    return data


def _measure_key(name: str) -> str:
    return f"measures/{name}"


def _plain(value: Any) -> Any:
    """JSON types only: numpy numbers as Python's, NaN as null."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value

"""Long work that can be killed: a stream of batches, resume, a progress bar, a look at the disk before the start."""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from interp.records.folder_lock import OtherRunError, holding_unless_held
from interp.records.parts import Arrays, Parts, hash_items, layout
from interp.records.progress import showing_progress
from interp.records.provenance import hash_json
from interp.records.shards import Place, ShardWaits, place_of
from interp.records.workers import PathUnseenError, score_of, seen, this_worker
from interp.records.writing import write_atomically

Item = TypeVar("Item")


def run_batches(
    items: Sequence[Item],
    score: Callable[[Sequence[Item]], Arrays],
    *,
    batch_size: int,
    directory: Path | None = None,
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
    title: str = "scoring",
) -> dict[str, np.ndarray]:
    """Score items batch by batch and join the arrays along axis 0 (examples).

    ``score`` must be a function of its batch alone. With a ``directory``, each batch's arrays are written there as a
    part file before the next begins, so a killed run loses at most one batch; a rerun reads the parts of the
    same ``settings`` instead of computing them. A part that is damaged, or of another batch, step or run, is
    computed again, with a warning that names it. The parts stay until :func:`clear_parts`.

    In a shard's folder (:mod:`interp.records.shards`) its own batches alone are scored; the others' are read there. A
    worker of an engine (:mod:`interp.records.workers`) scores those that its driver gives it, and waits for the others.

    Raises ``OtherRunError`` if parts of other settings (or of another number of items, or another batch size) are
    there, or if somebody else is at work there; ``ValueError`` for no items, and in a worker without a directory;
    ``ShardWaits`` in a shard that is done before the others.
    """
    if len(items) == 0:
        raise ValueError("no items were given; there is nothing to score.")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}; expected 1 or more.")
    starts = range(0, len(items), batch_size)
    settings = {"batch_size": batch_size, "n_items": len(items), **(settings or {})}
    shard, worker = place_of(directory), this_worker()
    if worker and directory is None:
        raise ValueError(f"{title} keeps nothing, and workers meet in a folder. Give one on a shared disk, out=...")
    own = shard.shard.numbers(len(starts)) if shard else range(len(starts))
    sizes = [min(batch_size, len(items) - start) for start in starts]
    with holding_unless_held(directory), showing_progress(title, sum(sizes[n] for n in own)) as advance:
        parts = None
        if directory is not None:
            settings = _recorded(directory, settings, resume)
            parts = Parts(directory / "parts", key_of_parts(directory, settings))
        done: dict[int, Arrays] = {}
        kept: set[int] = set()

        def made(number: int, is_distrusted: bool = False, in_halves: bool = False) -> Arrays:
            batch = items[starts[number] : starts[number] + batch_size]
            named = hash_items(batch) if parts else ""
            arrays = parts.read(number, named) if parts and not is_distrusted else None
            if arrays is not None:
                kept.add(number)
                return arrays
            arrays = score_of(score, batch, in_halves) if worker else score(batch)
            if parts:
                parts.write(number, named, arrays)
            return arrays

        if worker and parts and directory is not None:
            for batch, was_kept in worker.batches(directory, title, sizes):
                done[batch.number] = made(batch.number, in_halves=batch.in_halves)
                was_kept.append(batch.number in kept)
            done |= _of_workers(parts, {n: items[starts[n] : starts[n] + batch_size] for n in own if n not in done})
            own = range(0)
        for number in own:
            done[number] = made(number)
            advance(sizes[number])
        if shard and parts:
            others = [n for n in range(len(starts)) if n not in done]
            named = {n: hash_items(items[starts[n] : starts[n] + batch_size]) for n in others}
            done |= _of_others(shard, parts.key, named, title)
        if parts and len({str(layout(arrays)) for arrays in done.values()}) > 1:
            for number in sorted(kept):
                parts.distrust(number, "not all parts have arrays of the same names, types and shapes")
                done[number] = made(number, is_distrusted=True)
    return {name: np.concatenate([done[n][name] for n in range(len(starts))]) for name in done[0]}


def _of_others(place: Place, key: str, named: Mapping[int, str], title: str) -> dict[int, Arrays]:
    """The parts that other shards keep, by number. Raises ``ShardWaits`` where some are not there."""
    beside = [Parts(folder / "parts", key) for folder in place.beside()]
    found: dict[int, Arrays] = {}
    for number, items in named.items():
        arrays = next((a for parts in beside if (a := parts.peek(number, items)) is not None), None)
        if arrays is not None:
            found[number] = arrays
    if len(found) < len(named):
        raise ShardWaits(
            f"shard {place.shard} has done its batches of {title}; {len(named) - len(found)} of {len(named)} of the "
            f"other shards are not here yet. When all are done: `interp merge {place.out}`."
        )
    return found


def _of_workers(parts: Parts, batches: Mapping[int, Sequence[Any]]) -> dict[int, Arrays]:
    """The parts that other workers wrote, by number."""
    found = {number: seen(partial(parts.peek, number, hash_items(batch))) for number, batch in batches.items()}
    if missing := [number for number, arrays in found.items() if arrays is None]:
        raise PathUnseenError(
            f"{parts.path(missing[0])} was written by another worker and is not seen, or is of other items. Give a "
            "folder on a disk that all workers share, out=..., and the same data to all."
        )
    return found


def prepare_directory(directory: str | Path, need_mib: float) -> Path:
    """Make the output folder and show, before any work, that it can be written and has room.

    Raises ``OSError`` with what was found, what is needed and what to do.
    """
    directory = Path(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory) as probe:
            probe.write(b"headscope")
    except OSError as error:
        raise OSError(
            f"can't write to the output folder {directory}: {error.strerror or error}. Give a writable one, out=..."
        ) from error
    free = shutil.disk_usage(directory).free / 2**20
    if free < need_mib:
        raise OSError(
            f"the output folder {directory} has {free:.0f} MiB free; about {need_mib:.0f} MiB are needed. Free some "
            "space, or give another, out=..."
        )
    return directory


def clear_parts(directory: Path) -> None:
    """Delete the part files of a finished run; a worker of an engine leaves that to its driver. Raises
    ``OtherRunError`` where somebody else is at work."""
    if this_worker() is None and (directory / "parts").is_dir():
        with holding_unless_held(directory):
            shutil.rmtree(directory / "parts", ignore_errors=True)


def require_parts_of(directory: Path, settings: Mapping[str, Any], resume: bool, discard: bool = False) -> None:
    """Raise ``OtherRunError`` if the folder has part files of other settings; ``discard`` deletes them instead.

    A run of the same settings goes on where it stopped, with or without ``resume``: running a notebook's cell again is
    enough.
    """
    settings = _as_read_back(settings)
    if worker := this_worker():
        worker.agree(directory, settings, resume, discard, keeps=False)
        return
    record = directory / "parts" / "run.json"
    if not record.exists():
        return
    with holding_unless_held(directory):
        found = read_run(record)
        same = found is not None and hash_json(found) == hash_json(settings)
        if same:
            return
        if discard:
            clear_parts(directory)
            return
    if found is None and resume:
        warnings.warn(f"{record} is damaged; parts that say that they are of this run are used.", stacklevel=3)
        return
    if found is None:
        raise OtherRunError(
            f"{record} is damaged, so that it can't be told whose unfinished work {directory} holds. Go on with it by "
            f"resume=True (parts of other runs are not used), or delete {record.parent} to start anew."
        )
    changed = sorted(k for k in {*found, *settings} if found.get(k) != settings.get(k))
    raise OtherRunError(
        f"{directory} holds an unfinished run with other settings ({', '.join(changed)} differ). Give another "
        f"folder, out=..., or the same settings, which go on; overwrite=True discards it."
    )


def keep_parts_of(directory: Path, settings: Mapping[str, Any], resume: bool, discard: bool = False) -> Path:
    """The folder for the part files of these settings, made if needed, for work whose parts are not batches; refuses
    as :func:`require_parts_of`."""
    _recorded(directory, settings, resume, discard)
    return directory / "parts"


def _recorded(directory: Path, settings: Mapping[str, Any], resume: bool, discard: bool = False) -> dict[str, Any]:
    """The settings that are written beside the part files: these; in a worker, those that all agree in."""
    settings = _as_read_back(settings)
    if worker := this_worker():
        return worker.agree(directory, settings, resume, discard, keeps=True)
    require_parts_of(directory, settings, resume, discard)
    folder = directory / "parts"
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"key": hash_json(settings), "settings": settings}, indent=1)
    write_atomically(folder / "run.json", lambda path: path.write_text(text, encoding="utf-8"))
    return settings


def count_left(n_items: int, directory: Path | None, batch_size: int) -> int:
    """How many of the items of :func:`run_batches` have no part file in ``directory`` (None: all of them)."""
    n_kept = 0 if directory is None else len(list((directory / "parts").glob("part-*.safetensors")))
    return n_items - min(n_items, n_kept * batch_size)


def key_of_parts(directory: Path, settings: Mapping[str, Any]) -> str:
    """Which run part files are of: its settings, and for a step inside another run's parts that run and its place."""
    own, worker = hash_json(_as_read_back(settings)), this_worker()
    for above in directory.parents:
        if worker and above.name == "parts" and worker.holds(above):  # the driver has written it
            seen((above / "run.json").is_file)
        if above.name == "parts" and (found := read_run(above / "run.json")) is not None:
            return hash_json([own, hash_json(found), directory.relative_to(above).as_posix()])
    return own


def read_run(record: Path) -> dict[str, Any] | None:
    """The settings that part files are of; None where that can't be told."""
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
        settings = found["settings"]
        return settings if isinstance(settings, dict) and found["key"] == hash_json(settings) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _as_read_back(settings: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(dict(settings), default=str))

"""The part files of all shards of a study, joined: what a study of one process would have left there."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.door import public
from interp.records.folder_lock import holding
from interp.records.parts import Arrays, Parts, checksum, layout
from interp.records.shards import FOLDER, Shard, shards_in
from interp.records.work import keep_parts_of, key_of_parts, read_run
from interp.records.writing import write_atomically

MERGED = "merged.json"


@dataclass(frozen=True)
class Merged:
    """What :func:`merge_shards` joined.

    Args:
        out: the folder of the study.
        n_shards: how many processes shared it.
        n_parts: part files, of all steps.
        rounding: the largest difference between two shards' fingerprints of the model's logits, in units of their root
            mean square: 0 where all ran on machines that round alike.
    """

    out: Path
    n_shards: int
    n_parts: int
    rounding: float


@public
def merge_shards(out: str | Path) -> Merged:
    """Join the work of all shards of a study (``Keep(out, shard="2/8")``) in its folder.

    Afterwards the same call without ``shard`` reads every batch and writes the report. Numbers are those of one
    process, bit for bit, where all machines round alike; else the largest difference is recorded in the provenance.

    Args:
        out: the folder that the shards have in common.

    Raises ``FileNotFoundError`` where no shard has worked; ``ValueError`` for a shard that is missing, is there twice,
    is of another number of shards, settings, weights or items, or is not done, and for a part file that is damaged;
    ``FolderInUseError`` where one is at work. Nothing is changed then. Cost: reads and writes each part once.
    """
    out = Path(out).expanduser()
    shards = _all_there(out)
    with contextlib.ExitStack() as held:
        held.enter_context(holding(out))
        for shard in shards:
            held.enter_context(holding(shard.folder(out)))
        inside = {folder for shard in shards for folder in _folders_of_parts(shard.folder(out))}
        if not inside:
            raise ValueError(f"{out / FOLDER} has no part files: no shard has done a batch yet.")
        steps = [_step(out, shards, folder) for folder in sorted(inside, key=lambda folder: len(folder.parts))]
        rounding = max(step.rounding for step in steps)
        for step in steps:
            _write(out, step, len(shards), rounding)
        shutil.rmtree(out / FOLDER)
    return Merged(out, len(shards), sum(len(step.parts) for step in steps), rounding)


def merged_from(folder: Path) -> dict[str, Any]:
    """What the provenance says of work in this folder that several processes shared: {"shards": ...}, or {}."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads((folder / "parts" / MERGED).read_text(encoding="utf-8"))
        return {"shards": {"n": int(found["n"]), "rounding": float(found["rounding"])}}
    return {}


@dataclass(frozen=True)
class _Step:
    """One folder of part files: where in a shard's folder it is, the settings of its run, and its parts by number, with
    the hash of their items."""

    inside: Path
    settings: Mapping[str, Any]
    parts: Mapping[int, tuple[str, Arrays]]
    rounding: float


def _all_there(out: Path) -> list[Shard]:
    if not (out / FOLDER).is_dir():
        raise FileNotFoundError(
            f"{out} has no folder {FOLDER}: no shard has worked there: shard='1/8' of a study with this out."
        )
    found = list(shards_in(out))
    if others := [name for name, shard in found if shard is None]:
        raise ValueError(f"{out / FOLDER} holds {', '.join(others)}, which is no shard. Move it away.")
    shards = [shard for _, shard in found if shard is not None]
    if not shards:
        raise FileNotFoundError(f"{out / FOLDER} is empty: no shard has worked there.")
    if len(counts := sorted({shard.n for shard in shards})) > 1:
        raise ValueError(
            f"{out / FOLDER} holds shards of {' and of '.join(map(str, counts))}: two divisions of the work, so that "
            "batches are there twice. Move those of one away."
        )
    missing = sorted(set(range(1, counts[0] + 1)) - {shard.number for shard in shards})
    if missing:
        names = ", ".join(f"{number}/{counts[0]}" for number in missing)
        raise ValueError(f"{out / FOLDER}: shard {names} is missing. Run it, then merge.")
    return sorted(shards, key=lambda shard: shard.number)


def _folders_of_parts(folder: Path) -> list[Path]:
    """Where in a shard's folder part files are kept: "parts" of a study, and inside it those of its steps."""
    return [record.parent.relative_to(folder) for record in folder.rglob("parts/run.json")]


def _step(out: Path, shards: Sequence[Shard], inside: Path) -> _Step:
    """What is to be joined in one folder; ``ValueError`` where that can't be."""
    there = [shard for shard in shards if (shard.folder(out) / inside / "run.json").is_file()]
    runs = {shard: _run_in(shard.folder(out) / inside) for shard in there}
    rounding = max((_apart(runs, there[0], shard, out) for shard in there[1:]), default=0.0)
    found: dict[int, tuple[str, Arrays]] = {}
    for shard in there:
        folder = shard.folder(out) / inside
        kept = Parts(folder, key_of_parts(folder.parent, runs[shard]))
        for number in kept.numbers():
            part = kept.taken(number)
            if number in found and (found[number][0] != part[0] or checksum(found[number][1]) != checksum(part[1])):
                raise ValueError(f"{kept.path(number)}: another shard has a part {number}, and the two differ.")
            found[number] = part
    run = runs[there[0]]
    if found and len({str(layout(arrays)) for _, arrays in found.values()}) > 1:
        raise ValueError(f"{out}: the parts of {inside} have arrays of other names, types or shapes.")
    if found:  # a study of several steps has none of its own
        missing = sorted(set(range(math.ceil(run["n_items"] / run["batch_size"]))) - set(found))
        if missing:
            of = sorted({str(shard) for shard in shards for n in missing if n % shard.n == shard.number - 1})
            raise ValueError(
                f"{out}: {len(missing)} parts of {inside} are missing, the first number {missing[0]}: shard "
                f"{', '.join(of)} is not done. Run it again, then merge."
            )
    return _Step(inside, run, found, rounding)


def _run_in(folder: Path) -> dict[str, Any]:
    found = read_run(folder / "run.json")
    if found is None:
        raise ValueError(f"{folder / 'run.json'} is damaged. Run this shard again, with overwrite=True.")
    return found


def _apart(runs: Mapping[Shard, Mapping[str, Any]], first: Shard, other: Shard, out: Path) -> float:
    """How far the fingerprints of two shards are apart: machines round differently; ``ValueError`` for two runs."""
    apart, differing = two_runs(runs[first], runs[other])
    if differing:
        raise ValueError(
            f"shards {first} and {other} of {out} are of different runs: {differing} differ. Run the one that is wrong "
            "again, with overwrite=True."
        )
    return apart


def two_runs(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[float, str]:
    """How far the fingerprints of two settings of part files are apart, where that is rounding; and in what else they
    differ, in words ("" where it is one run)."""
    differing, apart = sorted(k for k in {*a, *b} if a.get(k) != b.get(k)), 0.0
    if "fingerprint" in differing:
        values = [(run.get("fingerprint") or {}).get("values", []) for run in (a, b)]
        same_key = len({(run.get("fingerprint") or {}).get("key") for run in (a, b)}) == 1
        if same_key and values[0] and len(values[0]) == len(values[1]):
            apart = max(abs(x - y) for x, y in zip(*values, strict=True))
            differing.remove("fingerprint")
    return apart, ", ".join("the model's logits" if name == "fingerprint" else name for name in differing)


def _write(out: Path, step: _Step, n_shards: int, rounding: float) -> None:
    """The parts of a step, as one process would have left them."""
    directory = (out / step.inside).parent
    folder = keep_parts_of(directory, step.settings, resume=True)
    parts = Parts(folder, key_of_parts(directory, step.settings))
    for number, (items, arrays) in step.parts.items():
        parts.write(number, items, arrays)
    record_merged(folder, n_shards, rounding)


def record_merged(folder: Path, n: int, rounding: float) -> None:
    """Write beside part files that ``n`` processes made them, and how far apart these round."""
    text = json.dumps({"n": n, "rounding": rounding})
    write_atomically(folder / MERGED, lambda path: path.write_text(text, encoding="utf-8"))

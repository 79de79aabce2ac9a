"""What workers of a model take: memory of each and of all, how fast they are together, and what goes to the disk.

From the files of a model alone, before anything is loaded: the sizes of its weights stand at the head of safetensors
files, its shape in ``config.json``.
"""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.machine.doctor import Diagnosis, needs_of_weights
from interp.machine.speed import Work, read_shape
from interp.sources import BUILTIN, describe_sources

_GB = 10**9
_BYTES = {"float32": 4, "float64": 8, "bfloat16": 2, "float16": 2}
BATCH, SCORES = 8, 8
"""Prompts whose keys and values are kept at once, a batch; scores of every head that a study keeps of a prompt."""


@dataclass(frozen=True)
class Workers:
    """What ``n`` workers take, each with the model in memory.

    Args:
        model, dtype: of which, in which type.
        n: workers.
        weights_gb: of each, the weights.
        prefix_gb: of each, keys and values of a batch of prompts.
        rows_gb: of each, the rows of a fan-out over all heads at the answer, in chunks of ``memory_mib`` at most.
        needs_gb: of each, with the process itself, and a tenth of the weights for what passes take beside them.
        all_gb: of all workers.
        driver_gb: of the process that writes the report at the end, which loads the model too.
        fit_here: how many workers (with the driver) the free memory of this machine holds; on GPUs, which its GPUs
            hold.
        at_once: how many of these work at full speed here: one a CPU (or a GPU).
        seconds: the work named in ``work`` on one machine like this one, by as many workers as work at once here; None
            without a probe.
        work: what the time is of.
        folder, disk_free_gb: where the part files would go, and what is free there.
        parts_gb: part files of that work, and of the report.
    """

    model: str
    dtype: str
    n: int
    weights_gb: float
    prefix_gb: float
    rows_gb: float
    needs_gb: float
    all_gb: float
    driver_gb: float
    fit_here: int
    at_once: int
    seconds: float | None
    work: str
    folder: str
    disk_free_gb: float
    parts_gb: float


def needs_gb(model: str, dtype: str = "float32") -> float | None:
    """GB of memory of one process with the model; None for a model whose size is not known here."""
    weights = _weights_gb(model, dtype)
    return None if weights is None else needs_of_weights(weights)


def plan_workers(
    found: Diagnosis,
    model: str,
    n: int,
    work: Work,
    *,
    dtype: str = "float32",
    memory_mib: float = 1024.0,
    folder: Path | None = None,
) -> Workers:
    """What ``n`` workers of a model take, for some work; ``found`` says what this machine is.

    Raises ``FileNotFoundError`` for a model that is not here, ``ValueError`` for a type without a size, and for a
    number of workers below 1.
    """
    if n < 1:
        raise ValueError(f"workers={n}; expected 1 or more.")
    if dtype not in _BYTES:
        raise ValueError(f"dtype={dtype!r}; expected one of {', '.join(_BYTES)}.")
    weights, path = _weights_gb(model, dtype), _folder(model)
    if weights is None:
        raise FileNotFoundError(
            f"{model} is not on this machine, so that its size is not known. Load it once, or give a folder."
        )
    prefix, rows, per_prompt = _beside(_config(path), work.prompt_tokens, _BYTES[dtype], memory_mib * 2**20)
    needs = needs_of_weights(weights) + prefix + rows
    places = [free for _, free, _ in found.machine.gpus] or [found.machine.memory_free_gb - needs]  # beside the driver
    fit = sum(max(0, math.floor(free / needs)) for free in places)
    at_once = max(1, min(n, fit, len(found.machine.gpus) or found.machine.n_cpus))
    shape, seconds = None if path is None else read_shape(path, model), None
    if found.speed is not None and shape is not None:
        threads = found.speed.n_threads if found.speed.device == "cpu" else 1  # a worker has one
        seconds = found.speed.estimate_seconds(work, shape) * threads / at_once
    folder = Path.cwd() if folder is None else folder
    return Workers(
        model=model,
        dtype=dtype,
        n=n,
        weights_gb=weights,
        prefix_gb=prefix,
        rows_gb=rows,
        needs_gb=needs,
        all_gb=n * needs,
        driver_gb=needs,
        fit_here=fit,
        at_once=at_once,
        seconds=seconds,
        work=work.what,
        folder=str(folder),
        disk_free_gb=shutil.disk_usage(folder).free / _GB,
        parts_gb=work.n_examples * per_prompt,
    )


def _beside(config: dict[str, Any], n_tokens: float, n_bytes: int, most: float) -> tuple[float, float, float]:
    """GB of the prefixes of a batch, of the rows of a fan-out (``most``: bytes), and of what a prompt leaves on disk:
    ``SCORES`` scores of every head, in the part files and in the report."""
    layers, heads = config.get("num_hidden_layers", 0), config.get("num_attention_heads", 1)
    d_model = config.get("hidden_size", 0)
    d_head, d_ff = config.get("head_dim") or d_model // heads, config.get("intermediate_size", 4 * d_model)
    prefix = 2 * layers * config.get("num_key_value_heads", heads) * d_head * n_tokens * BATCH * n_bytes
    row = 4 * (6 * d_model + 4 * heads * d_head + 3 * d_ff + 3 * heads * n_tokens)  # as interp.scans.fanout.row_bytes
    return prefix / _GB, min(layers * heads * row, most) / _GB, 2 * SCORES * layers * heads * 4 / _GB


def _folder(model: str) -> Path | None:
    """Where a model's files are: a built-in one that is cached, or a folder."""
    path = Path(model).expanduser()
    known = {source.name: source.path for source in describe_sources()}
    return known[model] if model in known else path if (path / "config.json").is_file() else None


def _config(path: Path | None) -> dict[str, Any]:
    """The shape of the part that reads text; {} where it is not known."""
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8")) if path else {}
        return config.get("text_config") or config
    except (OSError, ValueError):
        return {}


def _weights_gb(model: str, dtype: str) -> float | None:
    """GB of the weights in this type, without loading them."""
    path = _folder(model)
    if path is not None:
        n_parameters = sum(map(_n_parameters, path.glob("*.safetensors")))
    elif (source := BUILTIN.get(model)) is not None:
        n_parameters = source.converted_mb * 10**6 // 4
    else:
        n_parameters = 0
    return n_parameters * _BYTES[dtype] / _GB if n_parameters and dtype in _BYTES else None


def _n_parameters(file: Path) -> int:
    """How many numbers a safetensors file holds, from its head."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        head = json.loads(opened.read(length))
    return sum(math.prod(tensor["shape"]) for name, tensor in head.items() if name != "__metadata__")

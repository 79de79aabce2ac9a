"""Is everything there, what will fit, how fast will it be: a look at this machine, without a network."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from interp.machine.costs import ModelShape, Work
from interp.machine.speed import Speed, measure_speed, read_shape
from interp.models import load
from interp.sources import (
    BUILTIN,
    DEFAULT,
    PACKAGE,
    TESTBEDS,
    Package,
    Problem,
    cache_dir,
    describe_sources,
    installed_packages,
    installed_version,
    pip_install,
)

_MB, _GB = 10**6, 10**9
_OWN_GB, _BESIDE = 0.7, 1.1  # the process itself, and work beside the weights; see `Fit`
_YARDSTICK = ("a model of 7 billion parameters", 28_000)  # MB in float32
_LEAST_DISK_MB = 100  # reports and part files of a study


@dataclass(frozen=True)
class BuiltinModel:
    """A built-in model: "cached", "partial" (a download that was stopped), "damaged" or "not cached"."""

    name: str
    status: str
    on_disk_mb: float
    download_mb: float


@dataclass(frozen=True)
class Machine:
    """What there is to compute with. memory_*: of the container, if that has less; gpus: name, free and total memory;
    load: processes that run or wait for a CPU, over the last minute (None on Windows).
    cache_writable: whether models can be kept at `cache`, or in the first folder above it that exists."""

    system: str
    n_cpus: int
    n_threads: int
    memory_free_gb: float
    memory_total_gb: float
    cache: str
    cache_writable: bool
    disk_free_gb: float
    load: float | None
    gpus: tuple[tuple[str, float, float], ...]


@dataclass(frozen=True)
class Fit:
    """Does a model fit into memory: "yes", "if others make room" (total but not free memory is enough), "no".

    Needed: 1.1 times its weights and 0.7 GB for the process (peak while ranking: SmolLM2 1.1 GB for 0.54, Qwen2.5-Coder
    0.5B 3.3 GB for 2.5). where: "memory", or a GPU.
    """

    model: str
    dtype: str
    weights_gb: float
    needs_gb: float
    where: str
    fits: str


@dataclass(frozen=True)
class Expected:
    """How long some work on a cached model is likely to take."""

    what: str
    model: str
    seconds: float


@dataclass(frozen=True)
class Diagnosis:
    """What `examine` found. speed is None, and expected empty, without a probe. All is well if there is no problem."""

    python: str
    version: str
    packages: tuple[Package, ...]
    models: tuple[BuiltinModel, ...]
    machine: Machine
    fits: tuple[Fit, ...]
    speed: Speed | None
    expected: tuple[Expected, ...]
    problems: tuple[Problem, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON types; packages with `ok`, and the speed with `tokens_per_second`."""
        found = asdict(self)
        for row, package in zip(found["packages"], self.packages, strict=True):
            row["ok"] = package.ok
        if self.speed is not None:
            found["speed"]["tokens_per_second"] = self.speed.tokens_per_second
        return found


def examine(works: Sequence[tuple[Work, str | None]] = (), probe: bool = True) -> Diagnosis:
    """Look at packages, built-in models, memory, disk and GPUs, and time a few forward passes.

    works: what to estimate the time of, each for one built-in model, or (None) for every one that is cached.
    probe=False leaves timing out. Costs about 10 s with the probe, which loads the default model if it is cached;
    writes nothing.
    """
    packages, problems = installed_packages()
    models, machine = tuple(map(_builtin, (*BUILTIN, *TESTBEDS))), _machine()
    problems += _problems_of_machine(machine, {model.name: model for model in models})
    speed, expected = None, []
    if probe and not problems:
        paths = {s.name: s.path for s in describe_sources() if s.path is not None}
        try:
            speed = measure_speed(load(DEFAULT).hf if DEFAULT in paths else None, DEFAULT)
        except (ValueError, RuntimeError, OSError) as error:
            problems.append(
                Problem(
                    f"a forward pass failed: {error}",
                    f"Install PyTorch again: {pip_install(f'--force-reinstall {PACKAGE}')}.",
                )
            )
        else:
            shapes = [shape for name, path in paths.items() if (shape := read_shape(path, name)) is not None]
            expected = _expected(works, shapes, speed)
    version = installed_version(PACKAGE) or "not installed"
    fits = _fits(machine)
    return Diagnosis(
        platform.python_version(), version, packages, models, machine, fits, speed, tuple(expected), tuple(problems)
    )


def _builtin(name: str) -> BuiltinModel:
    """What the cache holds of a built-in model; where a stopped run leaves its parts is said in `interp.sources`."""
    source = BUILTIN.get(name) or TESTBEDS[name]
    [known] = [s for s in describe_sources() if s.name == name]
    models = cache_dir() / "models"
    partial = models / f".{source.directory_name}.partial"
    if known.cached:
        status, size = "cached", known.size_on_disk_mb
    elif (models / source.directory_name).exists():
        status, size = "damaged", _size_mb(models / source.directory_name)
    elif partial.exists():
        status, size = "partial", _size_mb(partial)
    else:
        status, size = "not cached", 0.0
    return BuiltinModel(name, status, size, source.download_mb)


def _size_mb(folder: Path) -> float:
    return round(sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / _MB, 1)


def _machine() -> Machine:
    memory = psutil.virtual_memory()
    free, total = memory.available, memory.total
    limit, used = _container_memory()
    if limit is not None and limit < total:
        free, total = min(free, limit - used), limit
    folder = cache_dir()
    while not folder.exists():
        folder = folder.parent
    has_affinity = hasattr(os, "sched_getaffinity")  # not on macOS
    gpus = []
    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        free_there, total_there = torch.cuda.mem_get_info(i)
        gpus.append((torch.cuda.get_device_name(i), free_there / _GB, total_there / _GB))
    return Machine(
        system=f"{platform.system()} {platform.machine()}",
        n_cpus=len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1,
        n_threads=torch.get_num_threads(),
        memory_free_gb=free / _GB,
        memory_total_gb=total / _GB,
        cache=str(cache_dir()),
        cache_writable=folder.is_dir() and os.access(folder, os.W_OK),
        disk_free_gb=shutil.disk_usage(folder).free / _GB,
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        gpus=tuple(gpus),
    )


def _container_memory() -> tuple[int | None, int]:
    """Limit and use of the control group that this process is in, in bytes; None where there is no limit."""
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii"))
        return (None if limit == "max" else int(limit)), used
    except (OSError, ValueError):
        return None, 0


def _problems_of_machine(machine: Machine, models: dict[str, BuiltinModel]) -> list[Problem]:
    problems = []
    default = BUILTIN[DEFAULT]
    is_cached = models[DEFAULT].status == "cached"
    needed_mb = _LEAST_DISK_MB if is_cached else 2 * default.download_mb + default.converted_mb
    if not is_cached and not machine.cache_writable:
        problems.append(
            Problem(f"the model cache {machine.cache} can't be written", "Set HEADSCOPE_CACHE to a folder that can.")
        )
    if machine.disk_free_gb * _GB < needed_mb * _MB:
        what = (
            f"{machine.disk_free_gb:.1f} GB of disk are free at {machine.cache}; {needed_mb / 1000:.1f} GB are needed"
        )
        problems.append(Problem(what, "Free some, or set HEADSCOPE_CACHE to a folder on a larger disk."))
    if not is_cached and os.environ.get("HEADSCOPE_OFFLINE", "0") not in ("", "0"):
        remedy = f"Unset it, or copy the model into {machine.cache} from another machine's cache."
        problems.append(Problem(f"HEADSCOPE_OFFLINE is set, and {DEFAULT} is not in the cache", remedy))
    needs = needs_of_weights(default.converted_mb / 1000)
    if machine.memory_free_gb < needs:
        what = f"{machine.memory_free_gb:.1f} GB of memory are free; {DEFAULT} needs {needs:.1f}"
        problems.append(Problem(what, "Close other programs, or give the container more memory."))
    return problems


def needs_of_weights(weights_gb: float) -> float:
    """GB of a process that ranks the heads of a model with these weights (:class:`Fit`)."""
    return _OWN_GB + _BESIDE * weights_gb


def _fits(machine: Machine) -> tuple[Fit, ...]:
    sizes = [(source.name, source.converted_mb) for source in BUILTIN.values()]
    sizes += [(t.name, t.assembled_mb) for t in TESTBEDS.values() if not t.is_whole]
    places = [("memory", machine.memory_free_gb, machine.memory_total_gb), *machine.gpus]
    fits = []
    for name, float32_mb in (*sizes, _YARDSTICK):
        for dtype, share in (("float32", 1.0), ("bfloat16", 0.5)):
            weights = share * float32_mb / 1000
            needs = needs_of_weights(weights)
            for where, free, total in places:
                verdict = "yes" if needs <= free else "if others make room" if needs <= total else "no"
                fits.append(Fit(name, dtype, weights, needs, where, verdict))
    return tuple(fits)


def _expected(works: Sequence[tuple[Work, str | None]], shapes: Sequence[ModelShape], speed: Speed) -> list[Expected]:
    return [
        Expected(work.what, shape.name, speed.estimate_seconds(work, shape))
        for work, only in works
        for shape in shapes
        if only in (None, shape.name)
    ]

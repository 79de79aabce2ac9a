"""A command that several processes share: shards by hand, or the workers of an engine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any, ClassVar, Literal

import typer

from interp.records import Keep

_EACH = ("cpus", "gpus", "memory")
_RUNS: ContextVar[tuple[str, Mapping[str, Any]]] = ContextVar("the command that runs, and what it was given")


@dataclass(frozen=True)
class SharedKeep(Keep):
    """Where a command keeps its work, and who does it."""

    panel: ClassVar[str] = "Report"
    engine: Literal["ray"] | None = None
    workers: int | None = None
    address: str | None = None
    per_worker: list[str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.engine is None:
            for name in ("workers", "address", "per_worker"):
                if getattr(self, name) is not None:
                    flag = f"--{name.replace('_', '-')}"
                    raise typer.BadParameter("it is for workers of an engine; give --engine ray too", param_hint=flag)
            return
        if self.shard is not None:
            raise typer.BadParameter("give one of --engine and --shard", param_hint="--engine")
        _ = self.resources
        from interp.engines import require_ray

        require_ray()

    @property
    def resources(self) -> dict[str, float]:
        """What ``--per-worker`` asks for."""
        found: dict[str, float] = {}
        for given in self.per_worker or ():
            name, equals, value = given.partition("=")
            try:
                found[name] = float(value)
            except ValueError:
                equals = ""
            if name not in _EACH or not equals or not found[name] >= 0:
                expected = f"{given!r}; expected one of {', '.join(_EACH)}, =, and a number, such as memory=4 (GB)"
                raise typer.BadParameter(expected, param_hint="--per-worker")
        return found


@contextlib.contextmanager
def running(name: str, given: Mapping[str, Any]) -> Iterator[None]:
    """Remember, in the block, which command runs, and what it was given."""
    token = _RUNS.set((name, given))
    try:
        yield
    finally:
        _RUNS.reset(token)


def let_workers(kept: SharedKeep, model: str, dtype: str) -> None:
    """Have the workers do the batches of the command that runs. Raises what :func:`interp.engines.run_on_ray` raises,
    and ``ValueError`` for standard input, which workers can't read."""
    from interp.engines import run_on_ray
    from interp.machine import needs_gb

    name, given = _RUNS.get()
    if any(value == "-" or (isinstance(value, list) and "-" in value) for value in given.values()):
        raise ValueError("workers can't read standard input. Give a file on a disk that all workers share.")
    given = {**given} | dict.fromkeys(("engine", "workers", "address", "per_worker"))
    each = kept.resources
    run_on_ray(
        partial(import_module("probes.cli.in_worker").run_command, name, given),  # which knows all commands
        workers=2 if kept.workers is None else kept.workers,
        address=kept.address,
        cpus=each.get("cpus", 1),
        gpus=each.get("gpus", 0),
        memory_gb=each.get("memory", needs_gb(model, dtype)),
        finish=lambda: None,
    )

"""A study on Ray: each actor loads the model once and does batches; the one that is here writes the report.

Ray brings the processes, on one machine or many, and says when one is gone. What is done is dealt out here
(:mod:`interp.engines.driver`), and goes through the part files in the study's folder, which all must see.
"""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from interp.door import public
from interp.engines.driver import Driver, WorkerError
from interp.engines.process import Hello, Said, WorkerProcess, what_computes
from interp.sources import install_extra

Result = TypeVar("Result")

_PASSED_ON = ("HEADSCOPE_OFFLINE", "HF_HUB_OFFLINE")
_GB = 10**9
_START = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent
    "RAY_agent_register_timeout_ms": "120000",  # Ray's processes start late on a busy machine
    "RAY_worker_niceness": "0",  # Ray's own is 15: others on the machine would leave workers a twentieth
}


@public
def run_on_ray(
    study: Callable[[], Result],
    *,
    workers: int = 2,
    address: str | None = None,
    cpus: float = 1,
    gpus: float = 0,
    memory_gb: float | None = None,
    finish: Callable[[], Result] | None = None,
) -> Result:
    """Do a study in several processes, on this machine or on a cluster; the report is that of one process.

    ``study`` loads the model and runs the study, with ``out`` in a folder that all workers see. It runs in every
    worker, where it does batches, and at the end once here, where it finds them all and writes the report. So it should
    do nothing else:

        >>> def study():
        ...     model = interp.load("smollm2-135m")
        ...     return negative_bias.rank_heads(model, load_questions("questions.csv"), out="reports/nas")
        >>> ranking = run_on_ray(study, workers=2)  # doctest: +SKIP

    A worker that dies is replaced, and its batch is done again: after two deaths in halves, after three the run ends
    and says so. One that runs out of memory does its batch in halves, once. Killed, the same call goes on: the batches
    that are done are not done again. Numbers are those of one process, bit for bit, where all machines round alike;
    else the largest difference stands in the provenance. Work that is no stream of batches (fits, searches) is refused.

    Args:
        study: without arguments (``functools.partial`` gives them). Ray brings it to the workers: from a module that
            they can import, or as it stands in a notebook.
        workers: how many, each with a model of its own.
        address: of a Ray cluster, "auto" for the one of this machine; None starts one here, and stops it.
        cpus: of each worker; also its threads.
        gpus: of each worker; ``device="cuda"`` is then the one that it got.
        memory_gb: of each worker; a machine gets no more workers than it has memory for. ``interp doctor --workers``
            says what a model takes.
        finish: what is done here at the end instead of ``study``.

    Returns:
        What ``study`` (or ``finish``) returns here.

    Raises:
        ModuleNotFoundError: Ray is not installed.
        ValueError: a number of workers below 1, or resources that no machine of the cluster has.
        ConnectionError: no cluster at this address.
        WorkerError: a worker with another version, other weights or data, or a folder that it can't reach; a study
            that fails, or that ends its workers.

    Cost: one load of the model a worker and one here; the work itself is shared.
    """
    ray = require_ray()
    if workers < 1:
        raise ValueError(f"workers={workers}; expected 1 or more.")
    wanted = {"CPU": cpus, "GPU": gpus, "memory": int((memory_gb or 0) * _GB)}
    with _cluster(ray, address, round(workers * cpus)), ExitStack() as held:
        _require_room(ray, {name: n for name, n in wanted.items() if n})
        driver = Driver(held, workers)
        _Crew(ray, driver, study, wanted).work(workers)
        return (finish or study)()


def require_ray() -> Any:
    """The module ``ray``. Raises ``ModuleNotFoundError`` with what to install."""
    for name, value in _START.items():
        os.environ.setdefault(name, value)
    try:
        return importlib.import_module("ray")
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise ModuleNotFoundError(f"the engine 'ray' needs Ray: {install_extra('ray')}", name="ray") from None


@contextmanager
def _cluster(ray: Any, address: str | None, n_cpus: int) -> Iterator[None]:
    """Be connected to a cluster in the block: to the one that is connected already, if any."""
    if ray.is_initialized():
        yield
        return
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        _start_here(ray, {"num_cpus": max(n_cpus, os.cpu_count() or 1), "include_dashboard": False, **quiet})
    else:
        try:
            ray.init(address=address, **quiet)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ConnectionError(
                f"no Ray cluster at address={address!r} ({str(error).splitlines()[0][:200]}). Start one with `ray "
                "start --head`, and give the address that it names; without one, workers are started on this machine."
            ) from None
    try:
        yield
    finally:
        ray.shutdown()


def _start_here(ray: Any, how: Mapping[str, Any]) -> None:
    """Start a cluster on this machine. On a busy one Ray's own processes may not be there within the 30 seconds that it
    waits; what they need is in memory the next time."""
    for is_last in (False, True):
        try:
            ray.init(**how)
            return
        except Exception as error:
            if "timed out" not in str(error):
                raise
            ray.shutdown()
            if is_last:
                raise ConnectionError(
                    "Ray did not start on this machine within 30 seconds, twice. Try again when it is less busy, or "
                    "start a cluster with `ray start --head`, and give address='auto'."
                ) from error


def _require_room(ray: Any, wanted: Mapping[str, float]) -> None:
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(all(node.get(name, 0) >= n for name, n in wanted.items()) for node in nodes):
        has = "; ".join(_in_words({name: node.get(name, 0) for name in wanted}) for node in nodes)
        raise ValueError(
            f"a worker asks for {_in_words(wanted)}, and no machine of the cluster has that: {has}. Ask for less "
            "(cpus=, gpus=, memory_gb=), or give another cluster."
        )


def _in_words(resources: Mapping[str, float]) -> str:
    words = {"CPU": "{:g} CPUs", "GPU": "{:g} GPUs", "memory": "{:.1f} GB of memory"}
    return ", ".join(words[name].format(n / _GB if name == "memory" else n) for name, n in resources.items())


@dataclass
class _Actor:
    """A worker as the driver knows it: its handle, what it is called, and whether its process has said hello."""

    handle: Any
    name: str
    is_here: bool = False


class _Crew:
    """The actors of one study, from the first to the last word of each."""

    def __init__(self, ray: Any, driver: Driver, study: Callable[[], Any], wanted: Mapping[str, float]) -> None:
        self.ray, self.driver, self.study, self.wanted = ray, driver, study, wanted
        self.ours = what_computes()
        self.environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        self.calls: dict[Any, _Actor] = {}
        self.actors: dict[str, _Actor] = {}
        self.n_started, self.warned = 0, set[str]()

    def work(self, n_workers: int) -> None:
        """Start the workers, and serve them until one comes to the end of the study."""
        try:
            for _ in range(n_workers):
                self._start()
            while True:
                done, _ = self.ray.wait(list(self.calls), num_returns=1)
                actor = self.calls.pop(done[0])
                try:
                    said = self.ray.get(done[0])
                except self.ray.exceptions.RayActorError as error:
                    self._gone(actor, error)
                    continue
                if isinstance(said, Hello):
                    self._welcome(actor, said)
                elif self._heard(actor, said):
                    return
                for name, answer in self.driver.answers():
                    self._call(self.actors[name], self.actors[name].handle.answer.remote(answer))
        finally:
            for actor in self.actors.values():
                self.ray.kill(actor.handle)

    def _start(self) -> None:
        self.n_started += 1
        wanted = {
            "num_cpus": self.wanted["CPU"],
            "num_gpus": self.wanted["GPU"],
            "memory": self.wanted["memory"] or None,
        }
        handle = self.ray.remote(WorkerProcess).options(max_restarts=0, **wanted).remote()
        actor = _Actor(handle, f"worker {self.n_started}")
        self.actors[actor.name] = actor
        self._call(actor, handle.hello.remote(str(Path.cwd()), self.environment))

    def _call(self, actor: _Actor, call: Any) -> None:
        self.calls[call] = actor

    def _welcome(self, actor: _Actor, hello: Hello) -> None:
        """Refuse a worker that would compute otherwise, or nothing; else let it begin."""
        old = actor.name
        actor.name = f"{old} (process {hello.pid} on {hello.host})"
        self.actors[actor.name] = self.actors.pop(old)
        differing = [
            f"{name} {hello.versions.get(name, 'none')} (here {version})"
            for name, version in self.ours.items()
            if hello.versions.get(name) != version
        ]
        if differing:
            raise WorkerError(f"{actor.name} has other versions: {', '.join(differing)}. Install the same everywhere.")
        if not hello.is_in_place:
            raise WorkerError(
                f"{actor.name} has no folder {Path.cwd()}. Start from a folder on a disk that all workers share."
            )
        self._call(actor, actor.handle.begin.remote(self.study))

    def _heard(self, actor: _Actor, said: Said) -> bool:
        """Pass a worker's words on; whether the study is at its end."""
        for text in said.warned:
            if text not in self.warned:
                self.warned.add(text)
                warnings.warn(text, stacklevel=4)
        if said.request is not None:
            self.driver.asked(actor.name, said.request)
            return False
        if said.failed and said.is_of_memory:
            self._replace(actor, f"It ran out of memory: {said.failed}", is_of_memory=True)
            return False
        if said.failed:
            raise WorkerError(f"{actor.name}: {said.failed}")
        return True

    def _gone(self, actor: _Actor, error: Exception) -> None:
        told = str(error)
        is_of_memory = "low on memory" in told or "OutOfMemory" in told  # Ray's own guard, which says so
        self._replace(actor, "It ran out of memory." if is_of_memory else "It was killed.", is_of_memory)

    def _replace(self, actor: _Actor, why: str, is_of_memory: bool) -> None:
        del self.actors[actor.name]
        self.ray.kill(actor.handle)
        warnings.warn(f"{actor.name} is gone, and is replaced; its batch is done again. {why}", stacklevel=4)
        self.driver.died(actor.name, why, is_of_memory)
        self._start()

"""One of several workers that an engine runs on a study: it asks its driver where one process would decide alone.

An engine (:mod:`interp.engines`) runs the same study in every worker. The driver holds the locks, says which settings
the part files are of, and hands out the numbers of batches; a worker scores them and writes the part files into the
study's own folder. No study knows of it: :func:`interp.records.work.run_batches`, the lock and the part files' record
ask here.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

Item = TypeVar("Item")
VISIBLE_S = 30.0
"""Seconds that a file written elsewhere may take to be seen here: network file systems keep listings for a while."""


class Hold(NamedTuple):
    """Hold the lock of a folder. Answer: the name and the content of a file there, to show that it is the same."""

    folder: str


class Agree(NamedTuple):
    """Which settings the part files in a folder are of, as JSON; ``keeps``: to write there, not only to ask. Answer:
    those of all workers, as JSON."""

    folder: str
    settings: str
    resume: bool
    discard: bool
    keeps: bool


class Take(NamedTuple):
    """The next batch of a step, whose batches have these sizes; ``finished``: the one that is done, ``is_kept`` if its
    part file was there. Answer: a :class:`Batch`, or None when all are done."""

    folder: str
    title: str
    sizes: tuple[int, ...]
    finished: int | None = None
    is_kept: bool = False


class Batch(NamedTuple):
    """What a worker is to do. ``in_halves``: a worker that did it whole ran out of memory."""

    number: int
    in_halves: bool = False


class PathUnseenError(OSError):
    """A folder of the driver's is not there for a worker, or is another one."""


@dataclass
class Worker:
    """This process, as a worker. ``ask``: a request to the driver, which answers when it can."""

    ask: Callable[[Any], Any]
    held: set[Path] = field(default_factory=set)

    def hold(self, folder: Path) -> None:
        """Have the driver hold the folder, and show that it is the same one here. Raises :class:`PathUnseenError`."""
        folder = folder.absolute()
        if folder in self.held:
            return
        name, content = self.ask(Hold(str(folder)))
        if not seen(lambda: _content(folder / name) == content):
            raise PathUnseenError(
                f"the folder {folder} is not the driver's: what the driver writes there is not seen. Give a folder on "
                "a disk that all workers share, out=..."
            )
        self.held.add(folder)

    def holds(self, folder: Path) -> bool:
        """Whether the driver holds it, or a folder above it, for this worker."""
        folder = folder.absolute()
        return not self.held.isdisjoint({folder, *folder.parents})

    def agree(
        self, folder: Path, settings: Mapping[str, Any], resume: bool, discard: bool, keeps: bool
    ) -> dict[str, Any]:
        """The settings of the part files there: the given ones, but for rounding."""
        return json.loads(self.ask(Agree(str(folder.absolute()), json.dumps(settings), resume, discard, keeps)))

    def batches(self, folder: Path, title: str, sizes: Sequence[int]) -> Iterator[tuple[Batch, list[bool]]]:
        """The batches that are this worker's, as long as there are any, each with a list to put into whether its part
        was there. Ends when all batches are done, by whomever."""
        step = Take(str(folder.absolute()), title, tuple(sizes))
        batch = self.ask(step)
        while batch is not None:
            was_kept: list[bool] = []
            yield batch, was_kept
            batch = self.ask(step._replace(finished=batch.number, is_kept=any(was_kept)))


_WORKER: ContextVar[Worker | None] = ContextVar("the worker that runs here", default=None)


def this_worker() -> Worker | None:
    """The worker that this thread is; None in a process of its own, and in a driver."""
    return _WORKER.get()


@contextmanager
def working_for(ask: Callable[[Any], Any]) -> Iterator[Worker]:
    """Be a worker in the block; ``ask`` sends a request to the driver and gives its answer."""
    worker = Worker(ask)
    token = _WORKER.set(worker)
    try:
        yield worker
    finally:
        _WORKER.reset(token)


def seen(found: Callable[[], Any]) -> Any:
    """What ``found`` gives, tried again until it gives something, or the file system has had its time."""
    until, wait = time.monotonic() + VISIBLE_S, 0.02
    while not (value := found()) and time.monotonic() < until:
        time.sleep(wait)
        wait = min(2 * wait, 2.0)
    return value


def score_of(
    score: Callable[[Sequence[Item]], Mapping[str, np.ndarray]], batch: Sequence[Item], in_halves: bool
) -> Mapping[str, np.ndarray]:
    """The arrays of a batch; where the memory does not suffice, of its two halves, once, with a warning."""
    if len(batch) < 2:
        return score(batch)
    if not in_halves:
        try:
            return score(batch)
        except Exception as error:
            if not is_of_memory(error):
                raise
    middle = (len(batch) + 1) // 2
    warnings.warn(
        f"a batch of {len(batch)} did not fit into a worker's memory; it was scored in two halves, which may round "
        "otherwise than the whole. A smaller batch_size=... avoids that.",
        stacklevel=3,
    )
    halves = [score(batch[:middle]), score(batch[middle:])]
    return {name: np.concatenate([half[name] for half in halves]) for name in halves[0]}


def is_of_memory(error: BaseException) -> bool:
    """Whether this is too little memory, of the machine or of a GPU."""
    known = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"  # torch's
    return known or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))


def _content(path: Path) -> str | None:
    try:
        list(path.parent.iterdir())  # network file systems look again
        return path.read_text(encoding="utf-8")
    except OSError:
        return None

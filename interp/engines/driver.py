"""The driver of a study that several workers do: it holds the locks, settles what the run is, and deals out batches.

It knows no engine: requests come in by :meth:`Driver.asked`, deaths by :meth:`Driver.died`, and what workers are told
goes out by :meth:`Driver.answers`. A request that can't be answered yet (all batches are out, and not all are done) is
kept until it can.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from interp.records import holding, keep_parts_of, require_parts_of, showing_progress
from interp.records.folder_lock import NAME
from interp.records.merging import record_merged, two_runs
from interp.records.workers import Agree, Batch, Hold, Take

MOST_DEATHS = 3
"""Workers that a batch, or the way to one, may end before the run is given up. Of too little memory: one less."""


class WorkerError(RuntimeError):
    """A worker can't do the study, or the study ends its workers; the sentence says which, and why."""


@dataclass
class _Step:
    """A step's batches: those to do, those that a worker is at, how often each ended one, and which did not fit."""

    title: str
    sizes: tuple[int, ...]
    left: deque[int]
    busy: dict[str, int] = field(default_factory=dict)
    deaths: Counter[int] = field(default_factory=Counter)
    too_large: set[int] = field(default_factory=set)


class Driver:
    """Serves the workers of one study.

    Args:
        held: takes the locks of the folders, and gives them back.
        n_workers: for the provenance.
    """

    def __init__(self, held: ExitStack, n_workers: int) -> None:
        self._held, self._n_workers = held, n_workers
        self._shown = held.enter_context(ExitStack())
        self._advance: Callable[[int], None] = lambda n: None
        self._ready: dict[str, Any] = {}
        self._waiting: dict[str, Take] = {}
        self._runs: dict[str, dict[str, Any]] = {}
        self._steps: dict[str, _Step] = {}
        self._recorded: dict[str, float] = {}
        self._deaths_before = 0
        self.rounding = 0.0
        """The largest difference between two workers' fingerprints of the logits."""
        self.n_done = self.n_kept = 0
        """Batches that workers have done, and those whose part files were there."""

    def asked(self, worker: str, request: Hold | Agree | Take) -> None:
        """Take a worker's request. Raises what the run can't go on from: ``FolderInUseError``, ``OtherRunError``,
        ``OSError``, :class:`WorkerError`."""
        if isinstance(request, Take):
            self._finished(worker, request)
            self._waiting[worker] = request
        elif isinstance(request, Agree):
            self._ready[worker] = self._settled(worker, request)
        else:
            folder = self._held.enter_context(holding(request.folder))
            self._ready[worker] = NAME, (folder / NAME).read_text(encoding="utf-8")

    def answers(self) -> Iterator[tuple[str, Any]]:
        """What workers are to be told now."""
        ready, self._ready = self._ready, {}
        yield from ready.items()
        for worker, request in list(self._waiting.items()):
            step, answer = self._steps[request.folder], None
            if step.left:
                number = step.busy[worker] = step.left.popleft()
                is_last_try = step.deaths[number] == MOST_DEATHS - 1
                answer = Batch(number, in_halves=is_last_try or number in step.too_large)
            elif step.busy:
                continue
            del self._waiting[worker]
            yield worker, answer

    def died(self, worker: str, why: str, is_of_memory: bool = False) -> None:
        """Put the batch of a worker that is gone back. Raises :class:`WorkerError` where others died of it before."""
        self._ready.pop(worker, None)
        self._waiting.pop(worker, None)
        advice = "Give each worker more memory, or batches of fewer examples: batch_size=..."
        for step in self._steps.values():
            if worker not in step.busy:
                continue
            number = step.busy.pop(worker)
            step.left.appendleft(number)
            step.deaths[number] += 1
            if step.deaths[number] >= MOST_DEATHS - (number in step.too_large):
                raise WorkerError(
                    f"batch {number + 1} of {len(step.sizes)} of {step.title} ended {step.deaths[number]} workers, the "
                    f"last time in halves. {worker}: {why} {advice} What is done is kept."
                )
            if is_of_memory:
                step.too_large.add(number)
            return
        self._deaths_before += 1
        if self._deaths_before >= MOST_DEATHS:
            raise WorkerError(f"{self._deaths_before} workers ended before they did a batch. {worker}: {why} {advice}")

    def _settled(self, worker: str, request: Agree) -> str:
        """The settings that all agree in; the first worker's, and of part files that are there."""
        place, given = Path(request.folder), json.loads(request.settings)
        ours = self._runs.get(request.folder)
        if ours is None:
            require_parts_of(place, given, request.resume, request.discard)
            ours = self._runs[request.folder] = given
        apart, differing = two_runs(ours, given)
        if differing:
            raise WorkerError(
                f"{worker} does another run in {place} than the workers before it: {differing} differ. Give all the "
                "same model, data and settings."
            )
        self.rounding = max(self.rounding, apart)
        if request.keeps and self._recorded.get(request.folder) != self.rounding:
            record_merged(keep_parts_of(place, ours, request.resume), self._n_workers, self.rounding)
            self._recorded[request.folder] = self.rounding
        return json.dumps(ours)

    def _finished(self, worker: str, request: Take) -> None:
        step = self._steps.get(request.folder)
        if step is None:
            numbers = deque(range(len(request.sizes)))
            step = self._steps[request.folder] = _Step(request.title, request.sizes, numbers)
            self._shown.close()  # of the step before
            self._advance = self._shown.enter_context(showing_progress(step.title, sum(step.sizes)))
        if request.finished is None:
            return
        del step.busy[worker]
        self._deaths_before = 0
        self.n_kept += request.is_kept
        self.n_done += not request.is_kept
        self._advance(step.sizes[request.finished])

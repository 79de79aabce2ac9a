"""Workers and their driver, without an engine: what they do together is what one process does, whoever dies."""

from __future__ import annotations

import functools
import json
import warnings
from contextlib import ExitStack

import numpy as np
import pytest

from interp.engines import Driver, WorkerError
from interp.engines.process import WorkerProcess
from interp.records import run_batches, workers
from interp.records.folder_lock import OtherRunError
from interp.records.workers import PathUnseenError, Worker, score_of, working_for
from tests.interp.engines.studies import arrays_of, assert_same, logged, study


def served(studies, dies=lambda worker, answer: False, of_memory=False):
    """Workers in threads of this process, one answer after another; the driver. ``dies``: which go at which answer."""
    with ExitStack() as held, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        driver, crew = Driver(held, len(studies)), {}

        def started(study):
            name = f"worker {len(crew) + 1}"
            crew[name] = WorkerProcess(), study
            heard(name, crew[name][0].begin(study))

        def heard(name, said):
            if said.failed:
                raise WorkerError(f"{name}: {said.failed}")
            if said.request is None:
                ended.append(name)
            else:
                driver.asked(name, said.request)

        ended: list[str] = []
        for one in studies:
            started(one)
        while not ended:
            for name, answer in driver.answers():
                if dies(name, answer):
                    driver.died(name, "It was killed.", of_memory)
                    started(crew[name][1])
                else:
                    heard(name, crew[name][0].answer(answer))
        return driver


def batch_of(answer):
    return answer if isinstance(answer, workers.Batch) else None


@pytest.mark.parametrize("n", [1, 2, 5])
def test_workers_are_one_process(tmp_path, n):
    """Each batch is scored once, of both steps; the same call then finds all; a second run finds the parts."""
    (tmp_path / "whole").mkdir()
    whole = study(tmp_path / "whole")
    out = tmp_path / "shared"
    out.mkdir()
    driver = served([functools.partial(study, out)] * n)
    assert sorted(i for i, _ in logged(out)) == sorted(i for i, _ in logged(tmp_path / "whole"))
    assert (driver.n_done, driver.n_kept) == (13, 0)
    assert_same(study(out), whole)
    again = served([functools.partial(study, out)] * n)
    assert (again.n_done, again.n_kept) == (0, 13) and len(logged(out)) == 13
    assert json.loads((out / "parts" / "merged.json").read_text()) == {"n": n, "rounding": 0.0}


def test_a_batch_of_a_worker_that_dies_is_done_by_another(tmp_path):
    dead = []

    def dies(name, answer):
        batch = batch_of(answer)
        if batch and batch.number == 4 and len(dead) < 2:
            assert batch.in_halves is False
            dead.append(name)
            return True
        return bool(batch and batch.number == 4 and not batch.in_halves)  # a third time, it is done in halves

    served([functools.partial(study, tmp_path)] * 2, dies)
    assert len(set(dead)) == 2
    (tmp_path / "whole").mkdir()
    assert_same(study(tmp_path), study(tmp_path / "whole"))
    assert sorted(i for i, _ in logged(tmp_path)) == sorted([*(i for i, _ in logged(tmp_path / "whole")), 9])


def test_too_little_memory_halves_a_batch_once(tmp_path):
    """Of a worker that was ended for it, the next does halves at once; then the run is given up, and says what."""
    tried = []

    def dies(name, answer):
        tried.extend([answer.in_halves] if batch_of(answer) and answer.number == 3 else [])
        return bool(batch_of(answer)) and answer.number == 3

    with pytest.raises(WorkerError, match=r"batch 4 of 11 of scoring ended 2 workers, the last time in halves.*batch_"):
        served([functools.partial(study, tmp_path)] * 2, dies, of_memory=True)
    assert tried == [False, True]
    with pytest.raises(WorkerError, match="3 workers ended before they did a batch"):
        served([functools.partial(study, tmp_path)] * 2, lambda name, answer: not batch_of(answer))


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")])
def test_a_batch_that_does_not_fit_is_scored_in_halves(error):
    def score(batch):
        if len(batch) > 3:
            raise error
        return arrays_of(batch)

    with pytest.warns(UserWarning, match="a batch of 5 did not fit into a worker's memory"):
        assert_same(score_of(score, range(5), False), arrays_of(range(5)))
    with pytest.raises(type(error)), pytest.warns(UserWarning):
        score_of(score, range(9), False)
    with pytest.raises(ZeroDivisionError):
        score_of(lambda batch: 1 / 0, range(5), False)


def test_a_worker_with_other_weights_is_refused(tmp_path):
    with pytest.raises(WorkerError, match=r"worker 2 does another run in .* the workers before it: weights differ"):
        served([functools.partial(study, tmp_path), functools.partial(study, tmp_path, weights="b")])
    with pytest.raises(OtherRunError, match="weights differ"):  # nor over what others left
        served([functools.partial(study, tmp_path, weights="b")])


def rounded(out, by):
    settings = {"fingerprint": {"values": [0.25 + by], "key": "k"}}
    return run_batches(range(6), arrays_of, batch_size=2, directory=out, settings=settings)


def test_workers_that_round_otherwise_are_one_run(tmp_path):
    driver = served([functools.partial(rounded, tmp_path, by) for by in (0.0, 1e-6)])
    assert driver.rounding == pytest.approx(1e-6) and driver.n_done == 3
    assert json.loads((tmp_path / "parts" / "merged.json").read_text())["rounding"] == driver.rounding


def test_a_folder_that_is_not_shared_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "VISIBLE_S", 0.0)
    (tmp_path / "lock").write_text("of another")
    for name in ("lock", "nothing"):
        with pytest.raises(PathUnseenError, match=r"is not the driver's: .* Give a folder on a disk that all workers"):
            Worker(lambda request, name=name: (name, "the driver's")).hold(tmp_path)
    with (
        working_for(lambda request: None),
        pytest.raises(ValueError, match="keeps nothing, and workers"),
    ):
        run_batches([1], arrays_of, batch_size=1)


def test_what_one_worker_wrote_is_of_the_same_items(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "VISIBLE_S", 0.0)

    def of_items(items):
        return run_batches(items, lambda b: {"x": np.array([len(i) for i in b])}, batch_size=1, directory=tmp_path)

    with pytest.raises(WorkerError, match=r"PathUnseenError: .*is not seen, or is of other items"):
        served([functools.partial(of_items, ["a", "b"]), functools.partial(of_items, ["c", "d"])])

"""Long work that is killed: what was done is kept, what was half done is not, and a resumed run gives the same."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from interp.records.folder_lock import OtherRunError
from interp.records.work import clear_parts, count_left, prepare_directory, run_batches
from interp.records.writing import write_atomically

ROOT = Path(__file__).parents[3]
ITEMS = list(range(11))


def score(batch):
    return {"square": np.array([i * i for i in batch], dtype=np.float32), "table": np.outer(batch, [1, 2])}


def expected():
    return {k: np.concatenate([score([i])[k] for i in ITEMS]) for k in ("square", "table")}


def assert_equal(found, wanted):
    assert set(found) == set(wanted)
    for name in wanted:
        np.testing.assert_array_equal(found[name], wanted[name])
        assert found[name].dtype == wanted[name].dtype


class Counting:
    """Scores and counts; raises at call ``fails_at`` (from 0)."""

    def __init__(self, fails_at=None):
        self.batches, self.fails_at = [], fails_at

    def __call__(self, batch):
        if len(self.batches) == self.fails_at:
            raise KeyboardInterrupt
        self.batches.append(list(batch))
        return score(batch)


@pytest.mark.parametrize("batch_size", [1, 3, 11, 50])
@pytest.mark.parametrize("kept", [True, False], ids=["with a folder", "in memory"])
def test_batches_are_a_plain_loop(tmp_path, batch_size, kept):
    counting = Counting()
    found = run_batches(ITEMS, counting, batch_size=batch_size, directory=tmp_path if kept else None)
    assert_equal(found, expected())
    assert [i for batch in counting.batches for i in batch] == ITEMS
    assert {len(b) for b in counting.batches[:-1]} <= {batch_size}
    assert (tmp_path / "parts").exists() == kept
    clear_parts(tmp_path)
    clear_parts(tmp_path)  # nothing there is no error
    assert list(tmp_path.iterdir()) == []


def run(folder, scoring, resume=False, items=ITEMS, batch_size=3, **settings):
    return run_batches(
        items, scoring, batch_size=batch_size, directory=folder, settings={"model": "m"} | settings, resume=resume
    )


def test_a_killed_run_resumes_with_the_batches_that_are_missing(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Counting(fails_at=2))
    again = Counting()
    assert_equal(run(tmp_path, again, resume=True), expected())
    assert again.batches == [[6, 7, 8], [9, 10]]
    nothing = Counting(fails_at=0)  # everything is there: a third run computes nothing
    assert_equal(run(tmp_path, nothing, resume=True), expected())


def test_resume_without_anything_to_resume_starts(tmp_path):
    assert_equal(run(tmp_path, score, resume=True), expected())


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        ({"model": "n"}, r"\(model differ\)"),
        ({"seed": 1}, r"\(seed differ\)"),
        ({"model": "n", "seed": 1}, r"\(model, seed differ\)"),
        ({"batch_size": 4}, r"\(batch_size differ\)"),
        ({"items": [1, 2, 3]}, r"\(n_items differ\)"),
    ],
)
def test_work_of_other_settings_is_refused_and_kept(tmp_path, changes, differs):
    run(tmp_path, score, pair=(1, 2), where=Path("a"))  # a tuple and a path are not what JSON gives back
    for resume in (True, False):
        with pytest.raises(OtherRunError, match=differs):
            run(tmp_path, Counting(fails_at=0), resume=resume, pair=(1, 2), where=Path("a"), **changes)
    assert_equal(run(tmp_path, Counting(fails_at=0), resume=True, pair=(1, 2), where=Path("a")), expected())


def test_work_of_the_same_settings_goes_on_without_being_asked(tmp_path):
    """Running an interrupted notebook's cell again is enough."""
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Counting(fails_at=1))
    again = Counting()
    assert_equal(run(tmp_path, again), expected())
    assert again.batches and [0, 1, 2] not in again.batches
    assert_equal(run(tmp_path, Counting(fails_at=0)), expected())


@pytest.mark.parametrize("left", [0, 5, 60, -1])
def test_a_truncated_part_is_computed_again(tmp_path, left):
    run(tmp_path, score)
    part = tmp_path / "parts" / "part-00001.safetensors"
    part.write_bytes(part.read_bytes()[:left])
    again = Counting()
    with pytest.warns(UserWarning, match=r"part-00001.safetensors is not used, and computed again: it can't be read"):
        assert_equal(run(tmp_path, again, resume=True), expected())
    assert again.batches == [[3, 4, 5]]


def test_files_of_a_killed_writer_are_cleaned(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Counting(fails_at=1))
    parts = tmp_path / "parts"
    for name in (".part-00001.safetensors.123", ".run.json.123"):
        (parts / name).write_bytes(b"half")
    (parts / "notes.txt").write_text("mine")
    run(tmp_path, score, resume=True)
    assert sorted(p.name for p in parts.iterdir()) == [
        "notes.txt", *(f"part-{i:05d}.safetensors" for i in range(4)), "run.json"
    ]  # fmt: skip


LIGHT = """
import sys, types
sys.modules["interp"] = package = types.ModuleType("interp")  # not all of the package: a process starts in a second
package.__path__ = ["interp"]
"""
SCRIPT = f"""{LIGHT}
import time, numpy as np
from pathlib import Path
from interp.records.work import run_batches

def score(batch):
    time.sleep(0.05)
    return {{"square": np.array([i * i for i in batch], dtype=np.float32)}}

run_batches(list(range(200)), score, batch_size=2, directory=Path(sys.argv[1]), settings={{"a": 1}})
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_kill_minus_nine_then_resume(tmp_path):
    root = Path(__file__).parents[3]
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], cwd=root, env=os.environ | {"PYTHONPATH": str(root)}
    )
    parts, deadline = tmp_path / "parts", time.monotonic() + 60
    while len(list(parts.glob("part-*"))) < 4 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    done = len(list(parts.glob("part-*")))
    assert 4 <= done < 100
    scored = []

    def quick(batch):
        scored.extend(batch)
        return {"square": np.array([i * i for i in batch], dtype=np.float32)}

    found = run_batches(list(range(200)), quick, batch_size=2, directory=tmp_path, settings={"a": 1}, resume=True)
    np.testing.assert_array_equal(found["square"], np.arange(200, dtype=np.float32) ** 2)
    assert len(scored) == 200 - 2 * done  # at most the batch under way was lost


def test_no_items_and_no_batches_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no items were given"):
        run(tmp_path, score, items=[])
    with pytest.raises(ValueError, match="batch_size=0; expected 1 or more"):
        run(tmp_path, score, batch_size=0)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_can_not_be_written_is_refused_before_work(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for path in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(OSError, match=r"can't write to the output folder .*file.*Give a writable one, out="):
            prepare_directory(path, need_mib=1)
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_full_disk_is_refused_before_work(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(2**30, 2**30 - 2**21, 2**21))
    with pytest.raises(OSError, match=r"has 2 MiB free; about 20 MiB are needed\. Free some"):
        prepare_directory(tmp_path / "new", need_mib=20)
    assert prepare_directory(tmp_path / "new", need_mib=1) == tmp_path / "new"
    assert list((tmp_path / "new").iterdir()) == []


def test_a_disk_that_fills_while_writing_is_an_os_error_and_leaves_no_half_part(tmp_path, monkeypatch):
    def full(path, content):
        with open(path, "wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"can't write .*part-00000.*No space left.*it goes on"):
        run(tmp_path, score)
    assert sorted(p.name for p in (tmp_path / "parts").iterdir()) == ["run.json"]
    monkeypatch.undo()
    assert_equal(run(tmp_path, score, resume=True), expected())


def test_a_failing_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    write_atomically(path, lambda p: p.write_text("old"))

    def fails(p):
        p.write_text("half of the new")
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        write_atomically(path, fails)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]
    write_atomically(path, lambda p: p.write_text("new"))
    assert path.read_text() == "new"


def test_two_processes_do_not_write_to_one_folder(tmp_path):
    held = "with holding(sys.argv[1]): print(1, flush=True); input()"
    script = f"{LIGHT}from interp.records.folder_lock import holding\n{held}"
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as other:
        other.stdout.readline()
        with pytest.raises(OtherRunError, match=rf"another process is working in .*process {other.pid} on .*, since 2"):
            run_batches([1, 2], lambda batch: {"x": np.array(batch)}, batch_size=1, directory=tmp_path)
        other.stdin.close()


def test_what_is_left_to_do(tmp_path):
    """By the part files, of which the last may be short; a folder that is not there yet has none."""
    items = list(range(7))
    assert count_left(7, None, 3) == count_left(7, tmp_path / "none", 3) == 7
    run_batches(items, lambda batch: {"x": np.array(batch)}, batch_size=3, directory=tmp_path, settings={})
    assert count_left(7, tmp_path, 3) == 0
    (tmp_path / "parts" / "part-00002.safetensors").unlink()
    assert count_left(7, tmp_path, 3) == 1

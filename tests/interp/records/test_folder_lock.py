"""One writer for each folder: other processes and threads are refused at once, and a kill leaves nothing locked."""

from __future__ import annotations

import errno
import inspect
import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from interp.records import folder_lock
from interp.records.folder_lock import NAME, FolderInUseError, holding, is_held, keeps_work
from interp.records.work import run_batches

ROOT = Path(__file__).parents[3]
LIGHT = (
    "import sys, types; sys.modules['interp'] = p = types.ModuleType('interp'); p.__path__ = ['interp']\n"  # no torch
)
HOLD = f"{LIGHT}from interp.records.folder_lock import holding\nwith holding(sys.argv[1]):\n print(flush=True); input()"


@contextmanager
def another_process(folder, script=HOLD):
    command = [sys.executable, "-c", script, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as process:
        try:
            process.stdout.readline()
            yield process
        finally:
            process.kill()


def test_another_process_is_refused_until_it_is_gone(tmp_path):
    with another_process(tmp_path) as other:
        with pytest.raises(
            FolderInUseError, match=rf"another process.*process {other.pid} on .*, since 2.*Wait for it"
        ):
            holding(tmp_path).__enter__()
        assert folder_lock._held == {}
        other.send_signal(signal.SIGKILL)
        other.wait()
        with holding(tmp_path):
            assert (tmp_path / NAME).is_file()
    assert list(tmp_path.iterdir()) == []


def test_another_thread_is_refused_the_same_thread_not(tmp_path):
    refused = []

    def work():
        try:
            with holding(tmp_path):
                pass
        except FolderInUseError as error:
            refused.append((str(error), error.holder["pid"]))

    with holding(tmp_path), holding(tmp_path):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert is_held(tmp_path / "parts" / "step") and not is_held(tmp_path.parent)
    assert "another thread of this process" in refused[0][0] and refused[0][1] == os.getpid()
    work()
    assert len(refused) == 1 and not is_held(tmp_path)


def test_a_folder_by_another_name_is_the_same_folder(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with another_process(tmp_path / "real"), pytest.raises(FolderInUseError):
        holding(tmp_path / "link").__enter__()


def test_what_was_made_and_is_empty_goes_again(tmp_path):
    with pytest.raises(RuntimeError), holding(tmp_path / "a" / "b"):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with holding(tmp_path / "a" / "b") as folder:
        (folder / "file").write_text("x")
    assert [p.name for p in (tmp_path / "a" / "b").iterdir()] == ["file"]


def test_a_lock_is_not_written_through_a_link(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / NAME).symlink_to(tmp_path / "mine.txt")
    with pytest.raises(OSError, match="can't write to the output folder"):
        holding(tmp_path).__enter__()
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_a_file_system_without_locks_gets_a_sentence(tmp_path, monkeypatch):
    def no_locks(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(folder_lock.fcntl, "flock", no_locks)
    with pytest.raises(OSError, match=r"can't lock files \(No locks available\).*a folder on a local disk"):
        holding(tmp_path).__enter__()


def test_a_folder_in_the_way_of_a_file_gets_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"can't write to the output folder .*Give a writable one, out="):
        holding(tmp_path / "file" / "deeper").__enter__()


def test_a_forked_child_does_not_keep_the_lock(tmp_path):
    child = "import os, time\n if os.fork(): input()\n print(flush=True); time.sleep(30)"  # it says that it runs
    script = HOLD.replace("print(flush=True); input()", child)
    with another_process(tmp_path, script) as other:
        other.kill()
        other.wait()
        with holding(tmp_path):
            pass


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path):
    ours = [".report.json.0123456789abcdef.tmp", "parts/step/.part-00001.safetensors.0123456789abcdef.tmp"]
    ours += [
        ".saving-abcd1234/new/ranking.csv",
        ".saving-abcd1234/old/ranking.csv",
        "edit/.edit.json.00112233445566ff.tmp",
    ]
    theirs = [".saving-notes/x", ".saving-abcd5678/mine", "notes.tmp", ".a.tmp", "mine/.a.0123456789abcdef.tmp"]
    for name in ours + theirs:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    with holding(tmp_path):
        left = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert left == {*theirs, NAME}


def test_overwrite_deletes_nothing_of_a_process_that_runs(tmp_path):
    from interp.records.work import clear_parts, require_parts_of

    run_batches([1, 2], lambda b: {"x": np.array(b)}, batch_size=1, directory=tmp_path, settings={"a": 1})
    before = {p: p.read_bytes() for p in (tmp_path / "parts").iterdir()}
    with another_process(tmp_path):
        with pytest.raises(FolderInUseError):
            require_parts_of(tmp_path, {"a": 2}, resume=False, discard=True)
        with pytest.raises(FolderInUseError):
            clear_parts(tmp_path)
        for resume in (True, False):
            with pytest.raises(FolderInUseError):
                run_batches([1], lambda b: {}, batch_size=1, directory=tmp_path, settings={"a": 1}, resume=resume)
    assert {p: p.read_bytes() for p in (tmp_path / "parts").iterdir()} == before


def test_the_decorator_holds_out_however_it_is_given(tmp_path):
    @keeps_work
    def study(model, out=None, *, resume=False):
        return out is not None and is_held(out)

    assert study(1, tmp_path) and study(1, out=str(tmp_path / "new")) and study(out=tmp_path, model=1)
    assert not study(1) and not (tmp_path / "new").exists()
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'model'"):
        study(out=tmp_path)
    with another_process(tmp_path), pytest.raises(FolderInUseError):
        study(1, tmp_path, resume=True)


def _studies():
    for package in ("interp", "probes"):
        for path in sorted((ROOT / package).rglob("*.py")):
            if path.parent.name == "cli" or path.stem in ("__init__", "__main__", "folder_lock"):
                continue
            module = import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
            owned = [o for o in vars(module).values() if getattr(o, "__module__", None) == module.__name__]
            functions = [o for o in owned if inspect.isfunction(o)]
            functions += [o.save for o in owned if inspect.isclass(o) and inspect.isfunction(vars(o).get("save"))]
            yield from functions


def test_every_study_that_keeps_work_takes_the_lock():
    """A function that is told where to keep work, and every ``save`` that may replace another's report."""
    loose, found = [], 0
    inner = {"require_place", "finished", "study_of_sets"}  # called by studies that hold the folder
    for function in _studies():
        names = inspect.signature(function).parameters
        keeps = ("keep" in names and names["keep"].annotation == "Kept") or {"out", "resume", "overwrite"} <= {*names}
        keeps |= function.__name__ == "save" and "overwrite" in names
        if keeps and function.__name__ not in inner and not function.__name__.startswith("_"):
            found += 1
            if not hasattr(function, "__wrapped__"):
                loose.append(f"{function.__module__}.{function.__qualname__}")
    assert found > 25 and loose == []

"""Files appear whole under a name that nobody could plant, and a disk that refuses is told in a sentence."""

from __future__ import annotations

import errno
import os
import resource
import stat
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from interp.edits.directions import Direction, load_direction
from interp.rankings.ranking import HeadRanking
from interp.records.work import run_batches
from interp.records.writing import WriteError, explained, write_atomically
from interp.reports import findings
from interp.reports.findings import Findings, load_findings


def test_a_link_is_replaced_and_not_written_through(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "out.txt").symlink_to(tmp_path / "mine.txt")
    write_atomically(tmp_path / "out.txt", lambda path: path.write_text("new"))
    assert (tmp_path / "mine.txt").read_text() == "mine"
    assert (tmp_path / "out.txt").read_text() == "new" and not (tmp_path / "out.txt").is_symlink()


def test_temporary_names_can_not_be_planted(tmp_path, monkeypatch):
    seen = []
    for _ in range(5):
        write_atomically(tmp_path / "out.txt", lambda path: seen.append(path.name))
    assert len(set(seen)) == 5 and not any(str(os.getpid()) == name.split(".")[-2] for name in seen)
    monkeypatch.setattr("secrets.token_hex", lambda n: "0" * 16)  # even if one is guessed
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / f".out.txt.{'0' * 16}.tmp").symlink_to(tmp_path / "mine.txt")
    with pytest.raises(FileExistsError):
        write_atomically(tmp_path / "out.txt", lambda path: path.write_text("new"))
    assert (tmp_path / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_the_mode_is_that_of_any_new_file(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_atomically(tmp_path / "out.txt", lambda path: path.write_text("x"))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out.txt").stat().st_mode) == 0o666 & ~mask


def test_a_long_name_has_room_for_a_temporary_one(tmp_path):
    path = tmp_path / ("x" * 250)
    write_atomically(path, lambda temporary: temporary.write_text("x"))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left.*Free some space"),
        (OSError(errno.EFBIG, "File too large"), "File too large.*ulimit -f"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "quota"),
        (SafetensorError("Error while serializing: I/O error: File too large (os error 27)"), "File too large"),
        (Exception("No space left on device (os error 28)"), "No space left"),
        (OSError("[Errno 28] Error writing bytes to file. Detail: [errno 28] No space left on device"), "No space"),
    ],
)
def test_a_disk_that_refuses_is_told_in_a_sentence(error, told):
    with pytest.raises(WriteError, match=f"can't write somewhere: .*{told}") as caught, explained("somewhere"):
        raise error
    assert caught.value.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT) and "Errno" not in str(caught.value)


def test_other_errors_pass():
    for error in (ValueError("os error 5000"), FileNotFoundError(errno.ENOENT, "x"), KeyError("x")):
        with pytest.raises(type(error)) as caught, explained("somewhere"):
            raise error
        assert caught.value is error


def _parts(out):
    run_batches([1, 2], lambda b: {"x": np.ones((1, 50_000))}, batch_size=1, directory=out, settings={})


def _table(out):
    Findings("t", ["s."], {"T": pd.DataFrame({"a": range(50_000)})}, {}, {"run_id": "r"}).save(out, overwrite=True)


def _arrays(out):
    Findings("t", ["s."], {}, {}, {"run_id": "r"}, {"x": np.ones(90_000)}).save(out, overwrite=True)


def _direction(out):
    Direction(torch.ones(3, 50_000), {"name": "m"}, {}).save(out)


def _ranking(out):
    scores, ids = np.ones((2, 40, 400)), ("a", "b")
    HeadRanking("nas", {"nas": scores}, ids, {}, {"run_id": "r"}).save(out, overwrite=True)


@contextmanager
def limit_on_file_sizes(n_bytes):
    """A real one (`ulimit -f`): Python ignores the signal, so that writing fails with EFBIG."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("writes", [_parts, _table, _arrays, _direction, _ranking])
def test_a_limit_on_file_sizes_gets_the_sentence_everywhere(tmp_path, writes, monkeypatch):
    """And what was there before stays."""
    monkeypatch.setattr(findings, "render", lambda _: "<html>")
    Findings("old", ["s."], {}, {}, {"run_id": "old"}).save(tmp_path)
    Direction(torch.ones(3, 4), {"name": "m"}, {}).save(tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with (
        pytest.raises(WriteError, match=r"can't write .*File too large.*ulimit -f") as caught,
        limit_on_file_sizes(60_000),
    ):
        writes(tmp_path)
    assert caught.value.errno == errno.EFBIG and "Errno" not in str(caught.value)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == before
    assert load_findings(tmp_path).title == "old" and load_direction(tmp_path).vectors.shape == (3, 4)
    left = [p.name for p in tmp_path.rglob("*") if p.name.startswith(".")]
    assert left == []


def test_libraries_that_write_by_themselves(tmp_path, monkeypatch):
    """A safetensors writer, as transformers uses it for an export, against a full device."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(WriteError, match="No space left on device"), explained(tmp_path):
        pd.DataFrame({"a": range(10)}).to_csv("/dev/full")
    with pytest.raises(WriteError), explained(tmp_path):
        os.mkdir(tmp_path / "closed")
        monkeypatch.setattr("safetensors.torch.serialize_file", _refuse)
        save_file({"x": torch.ones(3)}, tmp_path / "x.safetensors")
    run_batches([1], lambda b: {"x": np.ones(1)}, batch_size=1, directory=tmp_path / "fine", settings={})


def _refuse(*args, **kwargs):
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

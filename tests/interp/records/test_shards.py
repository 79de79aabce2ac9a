"""Several processes share a study: what they do together is what one does, bit for bit; anything else is refused."""

from __future__ import annotations

import json
import re
import shutil
import warnings

import numpy as np
import pytest

from interp.records import Keep, ShardWaits, merge_shards
from interp.records.shards import Shard, place_of
from interp.records.work import run_batches

ITEMS = [f"q{i}" for i in range(11)]


def score(batch):
    numbers = np.array([int(name[1:]) for name in batch])
    return {"nas": np.outer(numbers, [0.1, -1.25]).astype(np.float32), "right": numbers % 2 == 0}


def run(folder, items=ITEMS, batch_size=2, counted=None, **settings):
    def counting(batch):
        if counted is not None:
            counted.append(list(batch))
        return score(batch)

    settings = {"fingerprint": {"values": [0.25], "key": "a"}, **settings}
    return run_batches(items, counting, batch_size=batch_size, directory=folder, settings=settings)


def shard(out, number, n=3, **how):
    """One shard's turn: what it gives, or None where it waits for others."""
    try:
        return run(Shard(number, n).folder(out), **how)
    except ShardWaits as waits:
        assert "not here yet" in str(waits) and f"interp merge {out}" in str(waits)
        return None


def assert_same(a, b):
    assert {k: (v.dtype, v.tobytes()) for k, v in a.items()} == {k: (v.dtype, v.tobytes()) for k, v in b.items()}


@pytest.mark.parametrize("n", [1, 2, 3, 5, 9])
def test_shards_are_one_process(tmp_path, n):
    """Each batch is scored once, by one of them; the last to finish has the whole; merged, it needs no more work."""
    whole, counted = run(None), []
    found = [shard(tmp_path, number, n, counted=counted) for number in range(n, 0, -1)]
    assert sorted(map(tuple, counted)) == sorted(tuple(ITEMS[i : i + 2]) for i in range(0, 11, 2))
    assert [f is None for f in found] == [True] * (min(n, 6) - 1) + [False] if n <= 6 else found[-1] is not None
    assert_same(found[-1], whole)
    merged = merge_shards(tmp_path)
    assert (merged.n_shards, merged.n_parts, merged.rounding) == (n, 6, 0)
    assert not (tmp_path / "shards").exists()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(run(tmp_path, counted=counted), whole)
    assert len(counted) == 6


def test_steps_of_a_study_are_shared_as_well(tmp_path):
    """A step lies inside the study's parts; its identity is that of the run, and of its place there."""
    for number in (1, 2):
        folder = Shard(number, 2).folder(tmp_path)
        shard(tmp_path, number, 2)
        with pytest.raises(ShardWaits) if number == 1 else warnings.catch_warnings():
            run(folder / "parts" / "second", items=ITEMS[:5], of="step")
    merge_shards(tmp_path)
    counted = []
    assert_same(run(tmp_path / "parts" / "second", items=ITEMS[:5], of="step", counted=counted), run(None, ITEMS[:5]))
    assert counted == []


def test_machines_that_round_otherwise_are_said(tmp_path):
    for number in (1, 2):
        shard(tmp_path, number, 2, fingerprint={"values": [0.25 + 1e-6 * number], "key": "a"})
    merged = merge_shards(tmp_path)
    assert merged.rounding == pytest.approx(1e-6)
    counted = []
    run(tmp_path, fingerprint={"values": [0.25 + 1e-6], "key": "a"}, counted=counted)
    assert counted == []
    assert json.loads((tmp_path / "parts" / "merged.json").read_text())["rounding"] == merged.rounding


def all_done(out, **of_second):
    shard(out, 1, 2)
    shard(out, 2, 2, **of_second)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"k": 3}, "k differ"),
        ({"fingerprint": {"values": [0.5], "key": "b"}}, "the model's logits differ"),
        ({"items": ITEMS[:9]}, "n_items differ"),
        ({"batch_size": 3}, "batch_size differ"),
    ],
    ids=["settings", "weights", "items", "batches"],
)
def test_shards_of_another_run_are_refused(tmp_path, wrong, says):
    all_done(tmp_path, **wrong)
    with pytest.raises(ValueError, match=f"shards 1/2 and 2/2 .* are of different runs: .*{says}"):
        merge_shards(tmp_path)
    assert (tmp_path / "shards").is_dir() and not (tmp_path / "parts").exists()


def test_other_items_of_the_same_number_are_not_joined(tmp_path):
    """Questions of another file that are as many: their parts say what they are of."""
    all_done(tmp_path, items=[f"q{i + 20}" for i in range(11)])
    merge_shards(tmp_path)
    with pytest.warns(UserWarning, match="it is of other items"):
        assert_same(run(tmp_path), run(None))


def test_gaps_and_doubles_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no shard has worked there"):
        merge_shards(tmp_path)
    shard(tmp_path, 1)
    shard(tmp_path, 2)
    with pytest.raises(ValueError, match="shard 3/3 is missing"):
        merge_shards(tmp_path)
    shard(tmp_path, 3)
    part = Shard(2, 3).folder(tmp_path) / "parts" / "part-00001.safetensors"
    content = part.read_bytes()
    part.unlink()
    with pytest.raises(ValueError, match=r"1 parts .* missing, the first number 1: shard 2/3 is not done"):
        merge_shards(tmp_path)
    part.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"can't be used: its numbers were changed or damaged"):
        merge_shards(tmp_path)
    part.write_bytes(content)
    shard(tmp_path, 1, 2)
    with pytest.raises(ValueError, match="shards of 2 and of 3: two divisions of the work"):
        merge_shards(tmp_path)
    shutil.rmtree(Shard(1, 2).folder(tmp_path))
    shutil.copytree(Shard(2, 3).folder(tmp_path), tmp_path / "shards" / "2-of-3 (copy)")
    with pytest.raises(ValueError, match=re.escape("2-of-3 (copy), which is no shard")):
        merge_shards(tmp_path)


@pytest.mark.parametrize("wrong", ["3/2", "0/2", "1/0", "2", "a/b", "1/2/3", "-1/2", ""])
def test_a_shard_that_can_not_be_is_refused(tmp_path, wrong):
    with pytest.raises(ValueError, match="shard"):
        Keep(tmp_path, shard=wrong)


def test_a_shard_has_its_own_folder(tmp_path):
    keep = Keep(tmp_path, shard="2/8")
    assert keep.folder == tmp_path / "shards" / "2-of-8"
    place = place_of(keep.folder / "knowledge" / "parts")
    assert place is not None and (place.out, str(place.shard), place.inside.as_posix()) == (
        tmp_path,
        "2/8",
        "knowledge/parts",
    )
    assert place_of(tmp_path / "parts") is None and place_of(None) is None
    with pytest.raises(ValueError, match="give out="):
        Keep(shard="1/2")

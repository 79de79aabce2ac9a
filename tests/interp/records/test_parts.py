"""A part file is taken only where it belongs and as it was written; anything else is computed again, and said."""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import dataclass

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from interp.prompts.prompt import Prompt
from interp.records.folder_lock import OtherRunError
from interp.records.parts import Parts, checksum, hash_items
from interp.records.work import keep_parts_of, run_batches

ITEMS = [f"q{i}" for i in range(7)]


def score(batch):
    numbers = np.array([int(name[1:]) for name in batch])
    return {"nas": np.outer(numbers, [0.5, -1.25]).astype(np.float32), "right": numbers % 2 == 0}


def run(folder, counted=None, items=ITEMS, scoring=score, resume=True, **settings):
    def counting(batch):
        if counted is not None:
            counted.append(list(batch))
        return scoring(batch)

    return run_batches(items, counting, batch_size=2, directory=folder, settings=settings, resume=resume)


def assert_equal(a, b):
    assert set(a) == set(b)
    for name in a:
        assert a[name].dtype == b[name].dtype and a[name].tobytes() == b[name].tobytes()


def assert_made_again(folder, undisturbed, batches, match):
    counted = []
    with pytest.warns(UserWarning, match=match):
        assert_equal(run(folder, counted), undisturbed)
    assert counted == batches
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_equal(run(folder, counted), undisturbed)  # and the new part is whole
    assert counted == batches


def test_a_flipped_bit_is_found_wherever_it_is(tmp_path):
    """Every byte of the file: the length, the header with names, shapes and identity, its padding, the numbers."""
    folder = tmp_path / "parts"
    folder.mkdir()
    parts, arrays = Parts(folder, "run"), score(ITEMS[:2])
    parts.write(0, hash_items(ITEMS[:2]), arrays)
    whole = parts.path(0).read_bytes()
    rng = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for place in range(len(whole)):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << int(rng.integers(8))
            parts.path(0).write_bytes(bytes(damaged))
            assert parts.read(0, hash_items(ITEMS[:2])) is None, place
    parts.path(0).write_bytes(whole)
    assert_equal(parts.read(0, hash_items(ITEMS[:2])), arrays)


def test_a_large_error_of_one_bit_does_not_get_into_the_result(tmp_path):
    undisturbed = run(tmp_path)
    part = tmp_path / "parts" / "part-00002.safetensors"
    content = bytearray(part.read_bytes())
    content[-1] ^= 0x40  # the top of a float's exponent
    part.write_bytes(bytes(content))
    assert_made_again(tmp_path, undisturbed, [["q4", "q5"]], "part-00002.*the checksum differs")


def test_a_copy_of_another_batch_is_found(tmp_path):
    undisturbed = run(tmp_path)
    shutil.copy(tmp_path / "parts" / "part-00000.safetensors", tmp_path / "parts" / "part-00001.safetensors")
    assert_made_again(tmp_path, undisturbed, [["q2", "q3"]], "part-00001.*a copy of another part")


def test_two_swapped_parts_are_found(tmp_path):
    undisturbed = run(tmp_path)
    a, b = (tmp_path / "parts" / f"part-0000{i}.safetensors" for i in (0, 2))
    a.rename(tmp_path / "aside")
    b.rename(a)
    (tmp_path / "aside").rename(b)
    assert_made_again(tmp_path, undisturbed, [["q0", "q1"], ["q4", "q5"]], "a copy of another part")


def test_a_part_of_another_run_is_found(tmp_path):
    undisturbed = run(tmp_path / "a", seed=0)
    run(tmp_path / "b", scoring=lambda batch: {k: v + v for k, v in score(batch).items()}, seed=1)
    name = "part-00001.safetensors"
    shutil.copy(tmp_path / "b" / "parts" / name, tmp_path / "a" / "parts" / name)
    with pytest.warns(UserWarning, match="is of another run, or of another step"):
        assert_equal(run(tmp_path / "a", seed=0), undisturbed)


def test_a_part_of_another_step_is_found(tmp_path):
    """Two steps of a study, with the same items and no settings of their own, as the studies have them."""
    folder = keep_parts_of(tmp_path, {"study": 1}, resume=True)
    doubled = lambda batch: {k: v.astype(np.float32) * 2 for k, v in score(batch).items()}  # noqa: E731
    plain = run(folder / "layer-1")
    run(folder / "layer-2", scoring=doubled)
    name = "parts/part-00001.safetensors"
    shutil.copy(folder / "layer-2" / name, folder / "layer-1" / name)
    with pytest.warns(UserWarning, match="is of another run, or of another step"):
        assert_equal(run(folder / "layer-1"), plain)


def test_a_step_of_another_study_is_found(tmp_path):
    plain = run(keep_parts_of(tmp_path / "a", {"study": 1}, resume=True) / "step")
    run(keep_parts_of(tmp_path / "b", {"study": 2}, resume=True) / "step", scoring=lambda b: score(b[::-1]))
    shutil.rmtree(tmp_path / "a" / "parts" / "step")
    shutil.copytree(tmp_path / "b" / "parts" / "step", tmp_path / "a" / "parts" / "step")
    with pytest.warns(UserWarning, match="is of another run, or of another step"):
        assert_equal(run(tmp_path / "a" / "parts" / "step"), plain)


def test_parts_of_other_items_are_found(tmp_path):
    """As many items under the same settings, in another order."""
    run(tmp_path)
    with pytest.warns(UserWarning, match="is of other items"):
        found = run(tmp_path, items=ITEMS[::-1])
    np.testing.assert_array_equal(found["nas"], run_batches(ITEMS, score, batch_size=7)["nas"][::-1])


def test_a_part_without_identity_is_made_again(tmp_path):
    undisturbed = run(tmp_path)
    save_file(score(["q9", "q8"]), tmp_path / "parts" / "part-00000.safetensors")
    assert_made_again(tmp_path, undisturbed, [["q0", "q1"]], "no identity")


@pytest.mark.parametrize("change", ["array", "entry"])
def test_a_part_that_says_more_is_made_again(tmp_path, change):
    undisturbed = run(tmp_path)
    part = tmp_path / "parts" / "part-00000.safetensors"
    with safe_open(part, "np") as file:
        about, arrays = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if change == "array":
        arrays["extra"] = np.ones(2)
    else:
        about["extra"] = "1"
    save_file(arrays, part, metadata=about)
    assert_made_again(tmp_path, undisturbed, [["q0", "q1"]], "part-00000.*(checksum|more than a part)")


def test_parts_of_other_arrays_are_made_again(tmp_path):
    """A run that went on with another version of the code: equal settings, other names."""
    run(tmp_path, scoring=lambda batch: {"nas": score(batch)["nas"].astype(np.float64)})
    for number in (1, 3):
        (tmp_path / "parts" / f"part-0000{number}.safetensors").unlink()
    with pytest.warns(UserWarning, match="same names, types and shapes"):
        assert_equal(run(tmp_path), run_batches(ITEMS, score, batch_size=7))


@pytest.mark.parametrize(
    "content", [b"", b"\x00\xff", b"[1]", b'{"key": 1}', b"[" * 100_000, b'{"key":"x","settings":3}']
)
def test_a_damaged_record_of_the_run(tmp_path, content):
    undisturbed = run(tmp_path)
    (tmp_path / "parts" / "run.json").write_bytes(content)
    with pytest.raises(OtherRunError, match=r"run\.json is damaged.*resume=True.*or delete"):
        run(tmp_path, resume=False)
    counted = []
    with pytest.warns(UserWarning, match=r"run\.json is damaged"):
        assert_equal(run(tmp_path, counted), undisturbed)
    assert counted == [] and json.loads((tmp_path / "parts" / "run.json").read_text())["settings"]["n_items"] == 7


@dataclass
class Condition:
    name: str
    seed: int


def test_what_identifies_items():
    """Ids and tokens, or values: what differs in these differs, and what is equal is equal."""
    prompts = [Prompt.from_token_ids([3, 4], id="a"), Prompt.from_token_ids([3, 5], id="a")]
    different = [
        [1, 2], [2, 1], ["1", "2"], [(1, "x")], [(1, "y")], [Condition("a", 0)], [Condition("a", 1)], range(2),
        [np.arange(3)], [np.arange(3.0)], prompts[:1], prompts[1:], [{"a": 1}], [{"a": 2}], [None], [True], ["\ud800"],
    ]  # fmt: skip
    hashes = [hash_items(items) for items in different]
    assert len(set(hashes)) == len(different)
    assert hash_items([Condition("a", 0)]) == hash_items([Condition("a", 0)])
    assert hash_items([np.int64(1), 2]) == hash_items([1, 2])


def test_a_checksum_sees_names_types_shapes_and_order():
    a = np.arange(6, dtype=np.float32)
    others = [{"b": a}, {"a": a.astype(np.float64)}, {"a": a.reshape(2, 3)}, {"a": a[::-1]}, {"a": a, "b": a}]
    assert len({checksum(arrays) for arrays in [{"a": a}, *others]}) == 6
    assert checksum({"a": a.reshape(3, 2).T}) == checksum({"a": np.ascontiguousarray(a.reshape(3, 2).T)})

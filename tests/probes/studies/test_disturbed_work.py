"""Fits, searches and studies whose files were changed, swapped or cut: not used, and made again, with a warning."""

from __future__ import annotations

import shutil
import warnings

import numpy as np
import pytest

import interp
from interp.edits.head_scales import ScaledHeads
from interp.records.folder_lock import FolderInUseError
from interp.records.keep import Keep
from probes.modulation.candidates import _put_away, _read_back
from probes.negative_bias.corrections import Method, State
from probes.negative_bias.fits import Fits, read_method, write_method
from probes.requests import Behaviour, Request
from probes.studies.study import Study
from tests.interp.records.test_folder_lock import another_process
from tests.tiny import tiny, tiny_tokenizer

MODEL = {"name": "m", "weights_sha256": "ab" * 32, "dtype": "float32", "n_layers": 2, "n_heads": 3}


def method(name: str, factor: float) -> Method:
    edit = ScaledHeads(model=MODEL, about={}, factors={(0, 1): factor, (1, 2): 1.5})
    return Method(name, edit, 0.25, 2, 1.5, "L0H1", None)


@pytest.fixture(scope="module")
def model() -> interp.Model:
    return interp.load(tiny("llama", vocab_size=400, max_position_embeddings=512), tokenizer=tiny_tokenizer())


def study_in(model, out, **keep) -> Study:
    prompts, data = [model.prompt("Is it so?")], {"sha256": "ab", "n": 1}
    return Study("Fits", model, prompts, data=data, settings={"a": 1}, n_items=3, keep=Keep(out, **keep))


@pytest.fixture
def fits(model, tmp_path):
    """Two fitted methods of an unfinished run."""
    fits = Fits(study_in(model, tmp_path, resume=True))
    fits.put(method("NASA", 0.5), [{"step": 1, "gap": 0.1}])
    fits.put(method("scaled heads", 0.75), [])
    return fits


def test_a_fit_is_read_back(fits):
    found, history = fits.get("NASA")
    assert found.edit.factors == {(0, 1): 0.5, (1, 2): 1.5} and found.offset == 0.25 and history[0]["gap"] == 0.1
    assert fits.get("LoRA") is None
    folder = fits.study.keep.folder / "parts" / "nasa"
    assert read_method(folder, "another run", "NASA") is None


@pytest.mark.parametrize("file", ["method.json", "edit.json", "edit.safetensors"])
@pytest.mark.parametrize("damage", ["bit", "cut", "gone"])
def test_a_damaged_fit_is_made_again(fits, file, damage):
    path = fits.study.keep.folder / "parts" / "nasa" / file
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :]
        path.write_bytes(flipped if damage == "bit" else content[:middle])
    if (damage, file) == ("gone", "method.json"):
        assert fits.get("NASA") is None  # as if it had never been fitted
        return
    with pytest.warns(UserWarning, match="the fit of NASA is not used, and made again"):
        assert fits.get("NASA") is None
    assert fits.get("scaled heads")[0].edit.factors[0, 1] == 0.75


@pytest.mark.parametrize("what", ["folder", "edit", "tensors"])
def test_swapped_fits_are_made_again(fits, what):
    a, b = (fits.study.keep.folder / "parts" / name for name in ("nasa", "scaled_heads"))
    names = {"folder": [""], "edit": ["edit.json", "edit.safetensors"], "tensors": ["edit.safetensors"]}[what]
    for name in names:
        (a / name).rename(fits.study.keep.folder / "aside")
        (b / name).rename(a / name)
        (fits.study.keep.folder / "aside").rename(b / name)
    for name in ("NASA", "scaled heads"):
        with pytest.warns(UserWarning, match=f"the fit of {name} is not used, and made again"):
            assert fits.get(name) is None


def test_a_search_is_not_taken_for_another(tmp_path):
    done = {"factors": np.full((2, 3), 0.5), "note": "n", "history": [{"loss": 1.0}]}
    _put_away(tmp_path / "a", "run pull 0.1", done)
    assert _read_back(tmp_path / "a", "run pull 0.1")["history"] == done["history"]
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert _read_back(tmp_path / "b", "run pull 0.01") is None
    (tmp_path / "a" / "found.safetensors").write_bytes(b"x")
    with pytest.warns(UserWarning, match="a finished search is not used"):
        assert _read_back(tmp_path / "a", "run pull 0.1") is None


@pytest.mark.parametrize("content", ["{", "[]", '{"provenance": 3}', "[" * 100_000, '{"format_version": 1}'])
def test_a_damaged_study_is_refused_and_may_be_replaced(model, tmp_path, content):
    """It may be anybody's: nothing is written over it unless told to."""
    about = study_in(model, tmp_path).provenance()
    Behaviour((Request("a", "Do it.", "harmful"),), ("refused",), None, about).save(tmp_path)
    assert study_in(model, tmp_path, resume=True).found.verdicts == ("refused",)
    (tmp_path / "findings.json").write_text(content)
    with pytest.raises(FileExistsError, match="overwrite"):
        study_in(model, tmp_path, resume=True)
    assert study_in(model, tmp_path, resume=True, overwrite=True).found is None


def test_steps_of_a_study_do_not_mix(model, tmp_path):
    """Their items and settings are alike; only their names differ."""
    from interp.records.work import run_batches

    def step(name, factor):
        items, place = [1.0, 2.0, 3.0], study_in(model, tmp_path, resume=True).step(name)
        score = lambda batch: {"x": factor * np.array(batch)}  # noqa: E731
        return run_batches(items, score, batch_size=2, directory=place, resume=True)["x"].tolist()

    assert step("plain", 1) == [1, 2, 3] and step("twice", 2) == [2, 4, 6]
    parts = tmp_path / "parts"
    shutil.rmtree(parts / "plain")
    shutil.copytree(parts / "twice", parts / "plain")
    with pytest.warns(UserWarning, match="another step"):
        assert step("plain", 1) == [1, 2, 3]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert step("plain", 7) == [1, 2, 3]  # read, not computed


def test_fits_of_a_running_process_are_not_overwritten(model, fits):
    before = {p: p.read_bytes() for p in fits.study.keep.folder.rglob("*") if p.is_file()}
    with another_process(fits.study.keep.folder):
        for resume in (True, False):
            with pytest.raises(FolderInUseError):
                study_in(model, fits.study.keep.folder, resume=resume, overwrite=True)
        after = {p: p.read_bytes() for p in fits.study.keep.folder.rglob("*") if p.is_file() and p in before}
    assert after == before


def test_a_fit_keeps_the_state_of_validation(tmp_path):
    from dataclasses import fields, replace

    numbers = {f.name: 0.125 for f in fields(State)}
    write_method(tmp_path, replace(method("NASA", 0.5), validation=State(**numbers)), [], "run")
    assert read_method(tmp_path, "run", "NASA")[0].validation == State(**numbers)

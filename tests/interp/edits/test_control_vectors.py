"""Directions out to GGUF control vectors and back; files of other programs; what the format can't hold is said."""

from __future__ import annotations

import json

import gguf
import numpy as np
import pytest
import torch

import interp
from interp.edits.control_vectors import load_control_vector, save_control_vector
from interp.edits.directions import Direction
from interp.edits.identity import describe_model
from interp.edits.steering import add_direction
from interp.reading.residual import residual_states
from tests.tiny import prompt, tiny


def direction_of(model, first: int = 2) -> Direction:
    vectors = torch.randn(model.n_layers + 1, model.d_model, generator=torch.Generator().manual_seed(1))
    vectors[:first] = 0
    return Direction(vectors, describe_model(model), {"name": "kindness", "n": 3})


def write(path, rows: dict[int, np.ndarray], architecture="controlvector", hint: str | None = "llama"):
    """As repeng writes it."""
    writer = gguf.GGUFWriter(path, architecture)
    if hint is not None:
        writer.add_string("controlvector.model_hint", hint)
    writer.add_uint32("controlvector.layer_count", len(rows))
    for layer, row in rows.items():
        writer.add_tensor(f"direction.{layer}", row)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_out_and_back_bit_for_bit(llama, tmp_path):
    direction = direction_of(llama)
    path = save_control_vector(direction, tmp_path / "deep" / "kind.gguf")
    again = load_control_vector(path)
    assert torch.equal(again.vectors, direction.vectors)
    assert again.model == direction.model and again.about == direction.about
    again.require_fits(llama)
    assert [p.name for p in path.parent.iterdir()] == ["kind.gguf"]
    assert save_control_vector(again, tmp_path / "second.gguf").read_bytes() == path.read_bytes()


def test_the_file_is_what_llama_cpp_and_repeng_read(llama, tmp_path):
    """direction.k is the output of block k: our row k + 1; float32 vectors, numbers from 1, no gap."""
    direction = direction_of(llama)
    reader = gguf.GGUFReader(save_control_vector(direction, tmp_path / "v.gguf"))
    assert reader.get_field("general.architecture").contents() == "controlvector"
    assert reader.get_field("controlvector.model_hint").contents() == "llama"
    assert reader.get_field("controlvector.layer_count").contents() == 3
    assert [t.name for t in reader.tensors] == ["direction.1", "direction.2", "direction.3"]
    for tensor, row in zip(reader.tensors, direction.vectors[2:], strict=True):
        assert tensor.tensor_type == gguf.GGMLQuantizationType.F32 and tensor.data.shape == (32,)
        assert np.array_equal(tensor.data, row.numpy())


def test_a_file_of_repengs_steers_the_output_of_its_block(llama, tmp_path):
    rows = {k: np.random.default_rng(k).standard_normal(32).astype(np.float32) for k in (1, 3)}
    direction = load_control_vector(write(tmp_path / "v.gguf", rows), llama)
    assert direction.about["model_hint"] == "llama" and sorted(direction.to_tensors()) == [2, 4]
    p = prompt(8)
    (plain,) = residual_states(llama, [p], [range(8)])
    with add_direction(direction, 2.0, layers=2).apply(llama):
        (found,) = residual_states(llama, [p], [range(8)])
    written = torch.from_numpy(2.0 * rows[1])
    torch.testing.assert_close((found - plain)[2], written.expand(8, -1), atol=1e-5, rtol=0)
    assert torch.equal(found[:2], plain[:2])


def test_rows_without_a_place_are_named(llama, tmp_path):
    direction = direction_of(llama, first=0)
    with pytest.warns(UserWarning, match=r"row 0 and 1 of Direction\(kindness.* is left out.* output of block 1"):
        save_control_vector(direction, tmp_path / "v.gguf")
    again = load_control_vector(tmp_path / "v.gguf")
    assert torch.equal(again.vectors[2:], direction.vectors[2:]) and not again.vectors[:2].any()
    shallow = Direction(torch.ones(2, 32), {})
    with pytest.raises(ValueError, match="has no row 2"):
        save_control_vector(shallow, tmp_path / "w.gguf")
    assert not (tmp_path / "w.gguf").exists()


def test_the_hint_is_the_models_type(tmp_path):
    for name, expected in (("qwen2", "qwen2"), ("gpt2", "gpt2")):
        path = save_control_vector(direction_of(interp.load(tiny(name))), tmp_path / "v.gguf")
        assert gguf.GGUFReader(path).get_field("controlvector.model_hint").contents() == expected
    path = save_control_vector(direction_of(interp.load(tiny("llama"))), tmp_path / "v.gguf", model_hint="mine")
    assert gguf.GGUFReader(path).get_field("controlvector.model_hint").contents() == "mine"


def test_bad_files_are_refused(llama, tmp_path):
    rows = {1: np.ones(32, np.float32)}
    cases = {
        "no vector": (
            write(tmp_path / "b.gguf", rows, architecture="llama"),
            "a 'llama'; expected a control vector",
        ),
        "narrow": (write(tmp_path / "c.gguf", {1: np.ones(7, np.float32)}), "direction.1 has 7 numbers; expected 32"),
        "deep": (write(tmp_path / "d.gguf", {4: np.ones(32, np.float32)}), "block from 0 to 3"),
        "half": (write(tmp_path / "e.gguf", {1: np.ones(32, np.float16)}), "is F16 of shape .* float32 vector"),
        "matrix": (write(tmp_path / "f.gguf", {1: np.ones((2, 16), np.float32)}), r"of shape \(2, 16\)"),
        "empty": (write(tmp_path / "g.gguf", {}), "no 'direction.1'"),
    }
    for path, message in cases.values():
        with pytest.raises(ValueError, match=message):
            load_control_vector(path, llama)
    with pytest.raises(ValueError, match=r"does not say of which weights .* load_control_vector\(path, model\)"):
        load_control_vector(write(tmp_path / "h.gguf", rows))
    (tmp_path / "i.gguf").write_bytes(b"hello")
    (tmp_path / "j.gguf").write_bytes((tmp_path / "h.gguf").read_bytes()[:-100])
    for name in ("i.gguf", "j.gguf"):
        with pytest.raises(ValueError, match="no GGUF file, or a damaged one"):
            load_control_vector(tmp_path / name, llama)
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_control_vector(tmp_path / "k.gguf", llama)
    without_hint = write(tmp_path / "l.gguf", {0: np.ones(32, np.float32)}, hint=None)
    assert load_control_vector(without_hint, llama).norms()[1] > 0
    with pytest.warns(UserWarning, match=r"says that it is for a 'qwen2'; .* is a 'llama'"):
        load_control_vector(write(tmp_path / "a.gguf", rows, hint="qwen2"), llama)


def test_plain_tensors_in_and_out(llama):
    direction = direction_of(llama)
    again = Direction.from_tensors(direction.to_tensors(), llama, direction.about)
    assert torch.equal(again.vectors, direction.vectors) and again.about == direction.about
    assert torch.equal(Direction.from_tensors(direction.vectors.double(), llama).vectors, direction.vectors)
    assert again.model == json.loads(json.dumps(describe_model(llama)))
    for bad in ({5: torch.ones(32)}, {1: torch.ones(31)}, {-1: torch.ones(32)}):
        with pytest.raises(ValueError, match=r"expected vectors of 32 numbers for layers 0 to 4"):
            Direction.from_tensors(bad, llama)
    direction.to_tensors()[2].zero_()  # a copy
    assert direction.vectors[2].any()

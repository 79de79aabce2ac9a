"""Directions in plain safetensors: the key scheme on a file written by hand, and files of others."""

from __future__ import annotations

import json
import struct

import pytest
import torch
from safetensors.torch import save_file

from interp.edits.directions import Direction
from interp.edits.identity import describe_model
from interp.edits.plain_directions import load_plain, save_plain


def written_by_hand(path, tensors: dict[str, list[float]], metadata: dict[str, str] | None = None) -> None:
    """The bytes of the format: length of the header, header, float32 numbers."""
    header, at, data = {}, 0, b""
    for name, numbers in tensors.items():
        raw = struct.pack(f"<{len(numbers)}f", *numbers)
        header[name] = {"dtype": "F32", "shape": [len(numbers)], "data_offsets": [at, at + len(raw)]}
        at, data = at + len(raw), data + raw
    if metadata:
        header["__metadata__"] = metadata
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def test_a_file_written_by_hand_is_what_the_scheme_says(llama, tmp_path):
    """direction.2 is added to what block 2 gives: the input of block 3."""
    one, two = [1.0] * 32, [float(i) for i in range(32)]
    model, about = json.dumps(describe_model(llama)), json.dumps({"name": "by hand"})
    ours = {"format": "headscope direction", "version": "1", "at": "output", "position": "", "model": model}
    written_by_hand(tmp_path / "a.safetensors", {"embedding": one, "direction.2": two}, ours | {"about": about})
    found = load_plain(tmp_path / "a.safetensors")
    expected = torch.zeros(5, 32)
    expected[0], expected[3] = torch.tensor(one), torch.tensor(two)
    assert torch.equal(found.vectors, expected) and found.about == {"name": "by hand"}
    found.require_fits(llama)


def test_saved_and_loaded_bit_for_bit(llama, tmp_path):
    vectors = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    vectors[1] = 0
    direction = Direction(vectors, describe_model(llama), {"name": "calm", "position": "t_post"})
    again = load_plain(save_plain(direction, tmp_path / "deep" / "calm.safetensors"))
    assert torch.equal(again.vectors, vectors) and dict(again.about) == dict(direction.about)
    assert dict(again.model) == dict(direction.model)
    with pytest.raises(ValueError, match="says 'output'"):
        load_plain(tmp_path / "deep" / "calm.safetensors", at="input")


@pytest.mark.parametrize("name", ["{}", "layer.{}", "layers_{}", "blocks.{}", "model.layers.{}", "direction.{}"])
def test_files_of_others_are_read_once_it_is_said_which_side_they_mean(llama, tmp_path, name):
    written_by_hand(tmp_path / "b.safetensors", {name.format(1): [2.0] * 32})
    for at, row in (("output", 2), ("input", 1)):
        found = load_plain(tmp_path / "b.safetensors", llama, at)
        assert found.vectors[row].eq(2).all() and found.vectors.any(1).sum() == 1
    with pytest.raises(ValueError, match="Give both"):
        load_plain(tmp_path / "b.safetensors", llama)


def test_a_stack_of_rows(llama, tmp_path):
    rows = torch.arange(1.0, 6)[:, None].expand(5, 32).contiguous()
    save_file({"vectors": rows}, tmp_path / "c.safetensors")
    assert torch.equal(load_plain(tmp_path / "c.safetensors", llama, "output").vectors, rows)
    save_file({"vectors": rows[:4].contiguous()}, tmp_path / "d.safetensors")
    found = load_plain(tmp_path / "d.safetensors", llama, "output")
    assert not found.vectors[0].any() and torch.equal(found.vectors[1:], rows[:4])


def test_what_is_wrong_is_refused(llama, tmp_path):
    path = tmp_path / "e.safetensors"
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_plain(path)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="no safetensors file, or a damaged one"):
        load_plain(path, llama, "output")
    for tensors, message in (
        ({"direction.9": [1.0] * 32}, "for row 10; expected"),
        ({"direction.1": [1.0] * 3}, r"shape \(3,\) for row 2"),
        ({"lm_head": [1.0] * 32}, "a tensor 'lm_head'; expected 'direction.0'"),
    ):
        written_by_hand(path, tensors)
        with pytest.raises(ValueError, match=message):
            load_plain(path, llama, "output")
    with pytest.raises(ValueError, match="at='middle'"):
        load_plain(path, llama, "middle")
    zero = Direction(torch.zeros(5, 32), describe_model(llama), {})
    with pytest.raises(ValueError, match="nothing to write"):
        save_plain(zero, path)

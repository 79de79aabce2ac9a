"""Directions to and from GGUF control vectors, which repeng writes and llama.cpp applies.

The format (architecture ``controlvector``) has a float32 tensor ``direction.k`` for the *output* of block k, with
blocks counted from 0; it is added there at every position. That is row k + 1 of a
:class:`interp.edits.directions.Direction`, whose row l is the input of block l. llama.cpp refuses ``direction.0`` and
keeps no memory for it, so a file holds the rows from 2 on: the embedding (row 0) and the output of block 0 (row 1) have
no place in it. (repeng reads the last layer's direction from states that transformers gives after the final norm: treat
the last row of its files with care.)
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter
from torch import Tensor

from interp.door import public
from interp.edits.directions import Direction
from interp.edits.identity import describe_model
from interp.records.writing import write_atomically

if TYPE_CHECKING:
    from interp.models import Model

_ARCHITECTURE = "controlvector"
_FIRST_ROW = 2


@public
def save_control_vector(direction: Direction, path: str | Path, model_hint: str | None = None) -> Path:
    """Write a direction as a GGUF control vector; returns the path.

    model_hint: what the file says it is for, as repeng writes it (transformers' ``model_type``: "llama"); by default
    that of the direction's model. llama.cpp reads the rows alone; the direction's weights and origin are kept in keys
    of our own, for :func:`load_control_vector`. Steering by ``add_direction(direction, c)`` at layers from 2 on, at all
    positions and while generating, is llama.cpp's ``--control-vector-scaled FILE c``.

    Warns if row 0 or 1, which the format can't hold, is not zero.

    Raises:
        ValueError: a model of one block.
    """
    path = Path(path)
    rows = direction.vectors[_FIRST_ROW:]
    if not len(rows):
        raise ValueError(f"{direction!r} has no row {_FIRST_ROW}; a control vector begins at the output of block 1.")
    if lost := [row for row in range(_FIRST_ROW) if direction.vectors[row].any()]:
        warnings.warn(
            f"row {' and '.join(map(str, lost))} of {direction!r} is left out: a control vector begins at the output "
            f"of block 1, which is row {_FIRST_ROW}.",
            stacklevel=3,
        )
    hint = model_hint or _model_type(direction.model.get("architecture", ""))

    def write(temporary: Path) -> None:
        writer = GGUFWriter(temporary, _ARCHITECTURE)
        writer.add_string(f"{_ARCHITECTURE}.model_hint", hint)
        writer.add_uint32(f"{_ARCHITECTURE}.layer_count", len(rows))
        writer.add_string("headscope.model", json.dumps(dict(direction.model), default=str))
        writer.add_string("headscope.about", json.dumps(dict(direction.about), default=str))
        for block, row in enumerate(rows, start=_FIRST_ROW - 1):
            writer.add_tensor(f"direction.{block}", row.numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, write)
    return path


@public
def load_control_vector(path: str | Path, model: Model | None = None) -> Direction:
    """The direction in a GGUF control vector, bit for bit; rows that the file does not have are zero.

    path: the ``.gguf`` file.

    model: the model that the vector is for. Files of ours name their weights and need none; those of repeng and of
    llama.cpp's generator say no more than an architecture, and become a direction of this model's weights (which are
    hashed).

    Warns if the file names another architecture (llama.cpp has names of its own: a Mistral is a "llama" there).

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that is damaged, no control vector, or of another width or depth than the model.
    """
    path = Path(path)
    fields, tensors = _read(path)
    if "headscope.model" in fields:
        described, about = json.loads(fields["headscope.model"]), json.loads(fields["headscope.about"])
    elif model is None:
        raise ValueError(f"{path} does not say of which weights it is. Give a model: load_control_vector(path, model).")
    else:
        described = describe_model(model)
        hint = fields.get(f"{_ARCHITECTURE}.model_hint", "")
        about = {"name": path.stem, "from": "GGUF control vector", "model_hint": hint}
        own = _model_type(described["architecture"])
        if hint and hint != own:
            warnings.warn(
                f"{path} says that it is for a {hint!r}; {model.name} is a {own!r}, as transformers names it. Is it "
                "the model that the vector was made on?",
                stacklevel=3,
            )
    n_layers, d_model = described["n_layers"], described["d_model"]
    vectors = torch.zeros(n_layers + 1, d_model, dtype=torch.float32)
    for block, row in tensors.items():
        if not 0 <= block < n_layers or len(row) != d_model:
            raise ValueError(
                f"{path}: direction.{block} has {len(row)} numbers; expected {d_model}, for a block from 0 to "
                f"{n_layers - 1} of {described.get('name')!r}. Is it for another model?"
            )
        vectors[block + 1] = row
    return Direction(vectors, described, about)


def _read(path: Path) -> tuple[dict[str, str], dict[int, Tensor]]:
    """Text fields, and vectors by block; copied, so that the file is not kept open."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file.")
    try:
        reader = GGUFReader(path)
        fields = {name: str(field.contents()) for name, field in reader.fields.items()}
        found = {tensor.name: (tensor.tensor_type, np.array(tensor.data)) for tensor in reader.tensors}
    except (ValueError, IndexError, KeyError, OverflowError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no GGUF file, or a damaged one ({error}). Copy it again.") from error
    if fields.get("general.architecture") != _ARCHITECTURE:
        raise ValueError(
            f"{path} holds a {fields.get('general.architecture')!r}; expected a control vector "
            f"(general.architecture = {_ARCHITECTURE!r})."
        )
    tensors = {}
    for name, (kind, data) in found.items():
        block = name.removeprefix("direction.")
        if not block.isdecimal() or kind != GGMLQuantizationType.F32 or data.ndim != 1:
            raise ValueError(
                f"{path}: the tensor {name!r} is {kind.name} of shape {data.shape}; expected 'direction.1', "
                "'direction.2' ..., each a float32 vector."
            )
        tensors[int(block)] = torch.from_numpy(data.astype(np.float32))
    if not tensors:
        raise ValueError(f"{path} has no 'direction.1', 'direction.2' ...; expected one vector at least.")
    return fields, tensors


def _model_type(architecture: Any) -> str:
    """transformers' name of an architecture: "llama" for LlamaForCausalLM."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    names = {classes: kind for kind, classes in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items() if isinstance(classes, str)}
    return names.get(architecture, str(architecture))

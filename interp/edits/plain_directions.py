"""Directions to and from plain safetensors: one vector a block, whatever wrote the file.

The key scheme. ``direction.K`` is a float32 vector [d_model] that belongs to the *output* of block K, blocks counted
from 0, as in GGUF control vectors: whoever steers adds it to what block K gives, which is what block K + 1 gets. That
is row K + 1 of a :class:`interp.edits.directions.Direction`, whose row l is the input of block l. ``embedding`` is row
0, the input of block 0. Rows of zeros are left out. Metadata, all text: ``format`` ("headscope direction"),
``version``, ``at`` ("output"), ``position`` (the token that states were read at: "t_post" is the prompt's last token,
"t_inst" the request's; "" where nobody said; not where it is added), ``model`` and ``about`` (JSON).

Files of others are read too: any of the names in :data:`_KEY` with a block's number, and a stack of rows. They rarely
say which side of a block they mean, so the reader has to be told.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from interp.door import public
from interp.edits.directions import Direction
from interp.edits.identity import describe_model
from interp.records.writing import write_atomically

if TYPE_CHECKING:
    from interp.models import Model

FORMAT = "headscope direction"
At = Literal["output", "input"]
_KEY = re.compile(r"(?:(?:direction|layers?|blocks?|vectors?|model\.layers)[._])?(\d+)")
_STACKS = ("vectors", "directions")


@public
def save_plain(direction: Direction, path: str | Path) -> Path:
    """Write a direction as plain safetensors (the key scheme stands in :mod:`interp.edits.plain_directions`); returns
    the path. ``direction``: of any model. ``path``: a file, replaced if it is there.

    Raises:
        ValueError: a direction of zeros.
    """
    from safetensors.torch import save

    path = Path(path)
    tensors = {"embedding" if row == 0 else f"direction.{row - 1}": v for row, v in direction.to_tensors().items()}
    if not tensors:
        raise ValueError("every row of the direction is zero: there is nothing to write.")
    about = {"model": dict(direction.model), "about": dict(direction.about)}
    told = {name: json.dumps(value, default=str) for name, value in about.items()}
    position = str(direction.about.get("position", ""))
    content = save(tensors, {"format": FORMAT, "version": "1", "at": "output", "position": position, **told})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda temporary: temporary.write_bytes(content))
    return path


@public
def load_plain(path: str | Path, model: Model | None = None, at: At | None = None) -> Direction:
    """The direction in a plain safetensors file; rows that it does not have are zero.

    Args:
        path: the file.
        model: the model that it is for. Files of ours name their weights and need none; others become a direction of
            this model's weights (which are hashed).
        at: which side of block K its vector K belongs to, "output" or "input" (a stack of rows: of all L blocks, or of
            all L + 1 places of ours); files of ours say it themselves.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a damaged file, names that are none of a block, a block that the model does not have, another width,
            and a file of others without ``model`` or ``at``.

    Cost: no pass; with ``model`` its weights are hashed.
    """
    path = Path(path)
    if at not in (None, "output", "input"):
        raise ValueError(f"at={at!r}; expected 'output' or 'input'.")
    tensors, told = _read(path)
    if told.get("format") == FORMAT:
        if at not in (None, told["at"]):
            raise ValueError(f"at={at!r}, and {path} says {told['at']!r}. Leave it out.")
        described, about, at = json.loads(told["model"]), json.loads(told["about"]), told["at"]
    elif model is None or at is None:
        raise ValueError(
            f"{path} says neither of which weights it is nor which side of a block its vectors belong to. Give both: "
            "load_plain(path, model, at='output'), or at='input'."
        )
    else:
        described, about = describe_model(model), {"name": path.stem, "from": "plain safetensors", "at": at}
    n_layers, d_model = described["n_layers"], described["d_model"]
    vectors = torch.zeros(n_layers + 1, d_model, dtype=torch.float32)
    for row, vector in _rows(path, tensors, at, n_layers):
        if vector.shape != (d_model,) or not 0 <= row <= n_layers:
            raise ValueError(
                f"{path} has a vector of shape {tuple(vector.shape)} for row {row}; expected [{d_model}], and rows 0 "
                f"to {n_layers} of {described.get('name')!r}. Is it for another model, or at={at!r} the other side?"
            )
        vectors[row] = vector
    return Direction(vectors, described, about)


def _rows(path: Path, tensors: dict[str, Tensor], at: str, n_layers: int) -> list[tuple[int, Tensor]]:
    """Our row and its vector, of every tensor."""
    shift, found = int(at == "output"), []
    for name, tensor in tensors.items():
        if name == "embedding":
            found.append((0, tensor))
        elif name in _STACKS and tensor.ndim == 2:
            first = 0 if len(tensor) == n_layers + 1 else shift
            found += [(first + i, row) for i, row in enumerate(tensor)]
        elif match := _KEY.fullmatch(name):
            found.append((int(match.group(1)) + shift, tensor.flatten() if tensor.ndim == 2 else tensor))
        else:
            raise ValueError(
                f"{path} has a tensor {name!r}; expected 'direction.0', 'direction.1' ..., 'layer.0' ..., '0' ..., "
                f"'embedding', or a stack of rows {_STACKS[0]!r}. Rename it."
            )
    return found


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file.")
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118  # not a mapping
            told = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file, or a damaged one ({error}). Copy it again.") from error
    if not tensors:
        raise ValueError(f"{path} holds no tensor; expected one vector at least.")
    return tensors, told

"""Small results as files: tensors in safetensors beside a JSON record that names them by their hash. No pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from interp.provenance import versions
from interp.work import write_atomically

FORMAT_VERSION = 1


def save_artefact(directory: str | Path, stem: str, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Path:
    """Write ``{stem}.safetensors`` and ``{stem}.json`` into the directory, replacing earlier ones; returns it.

    The record gets ``format_version``, ``versions`` and the SHA-256 of the tensors' file. It is written last, so a
    crash between the two is seen by :func:`load_artefact`. What JSON has no form for is written as its text.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    on_cpu = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}  # one storage for each
    content = save_tensors(on_cpu, metadata={"format": f"headscope {stem}"})
    whole = {
        "format_version": FORMAT_VERSION,
        **record,
        "versions": versions(),
        "sha256": {f"{stem}.safetensors": hashlib.sha256(content).hexdigest()},
    }
    text = json.dumps(whole, indent=1, default=str) + "\n"
    write_atomically(directory / f"{stem}.safetensors", lambda path: path.write_bytes(content))
    write_atomically(directory / f"{stem}.json", lambda path: path.write_text(text, encoding="utf-8"))
    return directory


def load_artefact(directory: str | Path, stem: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The record and the tensors that :func:`save_artefact` wrote, bit for bit, on the CPU.

    Raises ``FileNotFoundError`` for a missing file, ``ValueError`` for a damaged one, another format version, or
    tensors that are not those of the record.
    """
    directory = Path(directory)
    record_file, tensors_file = directory / f"{stem}.json", directory / f"{stem}.safetensors"
    for file in (record_file, tensors_file):
        if not file.is_file():
            raise FileNotFoundError(f"{directory} has no {file.name}: it is not a saved {stem}.")
    try:
        record = json.loads(record_file.read_text(encoding="utf-8"))
        content = tensors_file.read_bytes()
        tensors = load_tensors(content)
    except (ValueError, SafetensorError) as error:
        raise ValueError(f"{directory} holds a damaged {stem} ({error}). Copy or save it again.") from error
    version = record.get("format_version") if isinstance(record, dict) else None
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{record_file} has format_version {version!r}; this version of headscope reads {FORMAT_VERSION}."
        )
    if hashlib.sha256(content).hexdigest() != record.get("sha256", {}).get(tensors_file.name):
        raise ValueError(f"{tensors_file} is not the file that {record_file.name} describes. Copy it again.")
    return record, tensors

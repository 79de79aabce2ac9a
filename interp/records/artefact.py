"""Small results as files: tensors in safetensors beside a JSON record that names them by their hash. No pickle."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from interp.records.folder_lock import holding_unless_held
from interp.records.provenance import versions
from interp.records.records import RecordError, read_record, understood, write_record
from interp.records.writing import explained, write_atomically

if TYPE_CHECKING:
    from torch import Tensor

FORMAT_VERSION = 1


def save_artefact(directory: str | Path, stem: str, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Path:
    """Write ``{stem}.safetensors`` and ``{stem}.json`` into the directory, replacing earlier ones; returns it.

    The record gets ``format_version``, ``versions``, the SHA-256 of the tensors' file and its own. It is written last,
    so a crash between the two is seen by :func:`load_artefact`. What JSON has no form for is written as its text.
    """
    from safetensors.torch import save

    directory = Path(directory)
    on_cpu = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}  # one storage for each
    content = save(on_cpu, metadata={"format": f"headscope {stem}"})
    whole = {
        "format_version": FORMAT_VERSION,
        "artefact": stem,
        **record,
        "versions": versions(),
        "sha256": {f"{stem}.safetensors": hashlib.sha256(content).hexdigest()},
    }
    with holding_unless_held(directory), explained(directory):
        directory.mkdir(parents=True, exist_ok=True)
        write_atomically(directory / f"{stem}.safetensors", lambda path: path.write_bytes(content))
        write_record(directory / f"{stem}.json", whole)
    return directory


def load_artefact(directory: str | Path, stem: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The record and the tensors that :func:`save_artefact` wrote, bit for bit, on the CPU.

    Raises ``FileNotFoundError`` for a missing file, ``ValueError`` for one that was changed or damaged, another format
    version, or tensors that are not those of the record.
    """
    from safetensors.torch import load

    directory = Path(directory)
    record_file, tensors_file = directory / f"{stem}.json", directory / f"{stem}.safetensors"
    for file in (record_file, tensors_file):
        if not file.is_file():
            raise FileNotFoundError(f"{directory} has no {file.name}: it is not a saved {stem}.")
    record, content = read_record(record_file, FORMAT_VERSION, stem), tensors_file.read_bytes()
    with understood(record_file):
        if record.get("artefact") != stem:
            raise RecordError(
                f"{record_file} is the record of {record.get('artefact')!r}, not of {stem!r}. Copy it again."
            )
        if hashlib.sha256(content).hexdigest() != record["sha256"][tensors_file.name]:
            raise RecordError(
                f"{tensors_file} is not the file that {record_file.name} describes: a damaged {stem}, or of another. "
                "Copy or save it again."
            )
    with understood(tensors_file):
        try:
            return record, load(content)
        except SafetensorError as error:
            raise RecordError(f"{directory} holds a damaged {stem} ({error}). Copy or save it again.") from error

"""What a result is, as a JSON file that carries the hash of its own content: what was changed is not believed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from interp.records.writing import write_atomically

SEAL = "record_sha256"
_REMEDY = "Copy or save it again, or run again with overwrite=True."
_INNER = (KeyError, TypeError, AttributeError, IndexError, RecursionError, ArithmeticError, AssertionError)


class RecordError(ValueError):
    """A saved file is not what this version of headscope wrote; the sentence names it and says what to do."""


def record_text(record: Mapping[str, Any], *, indent: int | None = 1) -> str:
    """The record as JSON text, with its hash as the last entry. What JSON has no form for is written as its text."""
    plain = json.loads(json.dumps({k: v for k, v in record.items() if k != SEAL}, default=str))
    return json.dumps({**plain, SEAL: _hash(plain)}, indent=indent, ensure_ascii=False) + "\n"


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write the record to ``path``, whole or not at all."""
    text = record_text(record)
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_record(path: Path, version: int | None = None, what: str = "") -> dict[str, Any]:
    """The record that :func:`write_record` wrote; ``what`` it is of, for the errors.

    Raises ``FileNotFoundError``, and :class:`RecordError` for anything else than an unchanged record of that
    ``format_version`` (None: of any).
    """
    content = path.read_bytes()
    try:
        data = json.loads(content.decode("utf-8"))
        found = data.get("format_version") if isinstance(data, dict) else None
        if version is not None and (found != version or type(found) is not int):
            raise RecordError(
                f"{path} has format_version {repr(found)[:40]}; this version of headscope reads {version}. It is of "
                "another version, or damaged. Load it with the version that wrote it (see provenance in the file), or "
                "run again."
            )
        if not isinstance(data, dict):
            raise RecordError(f"{path} holds a {type(data).__name__}, not an object: {_spoilt(what)}. {_REMEDY}")
        seal = data.pop(SEAL, None)
        is_whole = seal == _hash(data)
    except RecordError:
        raise
    except (ValueError, RecursionError) as error:
        told = "nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]
        raise RecordError(f"{path} is not valid JSON ({told}): {_spoilt(what)}. {_REMEDY}") from None
    if seal is None:
        raise RecordError(
            f"{path} has no hash of its own content ({SEAL}): it was edited, or an older version wrote it. {_REMEDY}"
        )
    if not is_whole:
        raise RecordError(
            f"{path} is not as it was written (the SHA-256 of its content differs from {SEAL}): it was changed or "
            f"damaged. {_REMEDY}"
        )
    return data


@contextmanager
def understood(path: Path, what: str = "") -> Iterator[None]:
    """Turn what a record of another shape raises in the block (a missing name, a wrong type) into one
    :class:`RecordError`. For the block that builds a value from a record, and nothing else."""
    try:
        yield
    except RecordError:
        raise
    except (*_INNER, ValueError) as error:
        told = f"{type(error).__name__}: {error}" if isinstance(error, _INNER) else str(error)
        raise RecordError(f"{path} can't be read ({told[:300]}): {_spoilt(what)}. {_REMEDY}") from error


def _spoilt(what: str) -> str:
    return f"a damaged {what}, or edited" if what else "damaged or edited"


def _hash(plain: Mapping[str, Any]) -> str:
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))  # ASCII: half a surrogate pair has no UTF-8
    return hashlib.sha256(text.encode()).hexdigest()

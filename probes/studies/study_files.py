"""Texts as arrays, for part files."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np


def pack_texts(rows: Sequence[Sequence[str]]) -> dict[str, np.ndarray]:
    """Texts [example][sample] as arrays for part files: UTF-8 bytes, and lengths [example, sample]."""
    encoded = [[text.encode() for text in row] for row in rows]
    joined = b"".join(itertools.chain.from_iterable(encoded))
    lengths = np.array([[len(text) for text in row] for row in encoded], dtype=np.int64)
    return {"text": np.frombuffer(joined, dtype=np.uint8).copy(), "length": lengths}


def unpack_texts(text: np.ndarray, length: np.ndarray) -> list[list[str]]:
    """The texts of :func:`pack_texts`."""
    ends = np.cumsum(length)
    pieces = [text[end - size : end].tobytes().decode() for end, size in zip(ends, length.ravel(), strict=True)]
    width = length.shape[1]
    return [pieces[i : i + width] for i in range(0, len(pieces), width)]

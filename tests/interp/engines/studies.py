"""Work for workers that needs no model: what each of them does is written down, a line a batch."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np

from interp.records import run_batches

N_ITEMS, BATCH_SIZE = 22, 2


def arrays_of(batch) -> dict[str, np.ndarray]:
    numbers = np.array(batch)
    return {"nas": np.outer(numbers, [0.1, -1.25]).astype(np.float32), "right": numbers % 2 == 0}


def logged(out: Path) -> list[tuple[int, int]]:
    """The first item of each batch that was scored, and the process that did it, in order."""
    path = out / "log"
    return [tuple(map(int, line.split())) for line in path.read_text().splitlines()] if path.exists() else []


def study(out: str | Path, seconds: float = 0.0, killed_at: int | None = None, weights: str = "a"):
    """Two steps; the process that comes to the item ``killed_at`` first is killed there, as the kernel does it."""
    out = Path(out)

    def score(batch):
        if killed_at in batch and not (out / "killed").exists():
            (out / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(seconds)
        with open(out / "log", "a", encoding="utf-8") as log:
            log.write(f"{batch[0]} {os.getpid()}\n")
        return arrays_of(batch)

    settings = {"fingerprint": {"values": [0.25], "key": "k"}, "weights": weights}
    first = run_batches(range(N_ITEMS), score, batch_size=BATCH_SIZE, directory=out, settings=settings)
    largest = int(first["nas"][:, 0].argmax())  # what the next step does follows from this one
    items = range(100 + largest, 100 + largest + 4)
    second = run_batches(items, score, batch_size=BATCH_SIZE, directory=out / "parts" / "second", settings={})
    return first | {f"second_{name}": array for name, array in second.items()}


def assert_same(found, wanted) -> None:
    bits = [{name: (a.dtype, a.tobytes()) for name, a in arrays.items()} for arrays in (found, wanted)]
    assert bits[0] == bits[1]

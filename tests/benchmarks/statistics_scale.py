"""What statistics cost as scores grow: ``python -m tests.benchmarks.statistics_scale`` writes statistics_scale.md.

Made-up scores (normal, a tenth of the heads off zero). CPU time of one thread, and the most memory that a process of
its own took beyond the scores themselves: a table of 2,000 examples x 1,024 heads with five measures, each with its
interval, of which the score is tested; and four saved rankings of 1,000 x 1,024, read back and compared.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from interp.rankings import HeadRanking, Measure, load_ranking
from interp.rankings.side_by_side import compare_rankings
from interp.reports.markdown import write_page

PAGE = Path(__file__).with_suffix(".md")


def ranking(n: int, measures: int, seed: int = 0) -> HeadRanking:
    rng = np.random.default_rng(seed)
    off = 0.2 * (rng.random((32, 32)) < 0.1)
    names = [f"measure_{i}" for i in range(measures)]
    scores = {name: (rng.normal(size=(n, 32, 32)) + off).astype(np.float32) for name in names}
    says = {name: Measure(name, "Made-up scores, for this benchmark.", "logits") for name in names}
    ids = tuple(map(str, range(n)))
    return HeadRanking(names[0], scores, ids, says, {"title": "Made up", "model": "none", "created": "2026-12-01"})


def table(n: int, measures: int) -> None:
    """In a process of its own: seconds of CPU and MiB beyond the scores."""
    made = ranking(n, measures)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    made.to_frame()
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(time.process_time() - began, (most - before) / 1024)


def compare() -> None:
    """Four rankings are saved; another process reads them back and compares them."""
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(4):
            ranking(1000, 1, seed).save(Path(folder) / str(seed))
        child = "from tests.benchmarks.statistics_scale import read_back; read_back({!r})"
        command = [sys.executable, "-c", child.format(folder)]
        print(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def read_back(folder: str) -> None:
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    rankings = [load_ranking(path) for path in sorted(Path(folder).iterdir())]
    compare_rankings(rankings, names=["a", "b", "c", "d"])
    print(time.process_time() - began, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def main() -> None:
    rows = []
    for what, call in (
        ("a table of 2,000 x 1,024, five measures", "table(2000, 5)"),
        ("a table of 500 x 1,024, five measures", "table(500, 5)"),
        ("four rankings of 1,000 x 1,024, loaded and compared", "compare()"),
    ):
        child = [sys.executable, "-c", f"from tests.benchmarks.statistics_scale import *; {call}"]
        said = subprocess.run(child, check=True, capture_output=True, text=True).stdout.split()
        rows.append({"what": what, "seconds of CPU": float(said[0]), "MiB beyond the scores": float(said[1])})
        print(rows[-1], flush=True)
    write_page(PAGE, "What statistics cost", {"One thread": pd.DataFrame(rows)})


if __name__ == "__main__":
    main()

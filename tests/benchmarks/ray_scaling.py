"""How fast two Ray workers are beside two plain processes, each on half of the same questions: ray_scaling.md.

Both do the same batches of a ranking with a model each and one thread. Compared is the time from the first to the last
part file, and that from the start, which has the loading in it (and Ray's). Runs take turns, so that a busy machine is
as busy for both.

    python -m tests.benchmarks.ray_scaling [ROUNDS]
"""

from __future__ import annotations

import contextlib
import functools
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from interp.engines import run_on_ray
from tests.interp.engines.clusters import local_cluster

TABLE = Path(__file__).with_name("ray_scaling.md")
MODEL, N, BATCH_SIZE, WORKERS = "smollm2-135m", 24, 2, 2


def study(out: str, shard: str | None = None) -> None:
    import interp
    from interp.records import ShardWaits
    from probes.negative_bias import rank_heads
    from probes.questions import load_questions

    keep = {"out": out, "shard": shard}
    with contextlib.suppress(ShardWaits):
        rank_heads(interp.load(MODEL), load_questions(limit=N), batch_size=BATCH_SIZE, keep=keep)


def plain(out: str) -> None:
    code = "import sys; from tests.benchmarks.ray_scaling import study; study(*sys.argv[1:])"
    shards = [f"{i}/{WORKERS}" for i in range(1, WORKERS + 1)]
    running = [subprocess.Popen([sys.executable, "-c", code, out, shard]) for shard in shards]
    assert all(process.wait() == 0 for process in running)


def on_ray(out: str) -> None:
    with tempfile.TemporaryDirectory() as path, local_cluster(Path(path)):
        _on_ray(out)


def _on_ray(out: str) -> None:
    run_on_ray(functools.partial(study, out), workers=WORKERS, finish=lambda: None)


def timed(way) -> tuple[float, float]:
    """Seconds of a batch from the first part file to the last, and seconds of all."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.time()
        way(folder)
        written = sorted(path.stat().st_mtime for path in Path(folder).rglob("part-*.safetensors"))
        assert len(written) == N // BATCH_SIZE, len(written)
        # the first part of each worker is where its clock begins
        return (written[-1] - written[WORKERS - 1]) / (len(written) - WORKERS), written[-1] - start


def main(rounds: int) -> None:
    ways = {"two plain processes": plain, "two Ray workers": on_ray}
    found = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            found[name].append(timed(way))
            print(name, *(f"{seconds:.2f}" for seconds in found[name][-1]), flush=True)
    a_batch = {name: statistics.median(run[0] for run in runs) for name, runs in found.items()}
    rows = [
        f"| {name} | {BATCH_SIZE / a_batch[name]:.2f} | {statistics.median(run[1] for run in runs):.0f} |"
        for name, runs in found.items()
    ]
    ratio = [plain[0] / ray[0] for plain, ray in zip(*found.values(), strict=True)]
    each = ", ".join(f"{r:.2f}" for r in ratio)
    TABLE.write_text(
        "# Two Ray workers beside two plain processes\n\n"
        f"{MODEL}, a ranking of {N} questions in batches of {BATCH_SIZE}, one thread each, medians of {rounds} rounds, "
        "in turns, on a machine of two CPUs that others used too. From `python -m tests.benchmarks.ray_scaling`.\n\n"
        "| | questions a second | seconds from the start |\n|---|---:|---:|\n" + "\n".join(rows) + "\n\n"
        f"Efficiency, round by round: {each}; median {statistics.median(ratio):.2f}.\n",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)

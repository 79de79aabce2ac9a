"""Workers on a local Ray cluster of two CPUs, which all tests of this module share."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import time

import pytest

from interp import load_ranking
from interp.engines import WorkerError, on_ray, run_on_ray
from interp.engines.process import what_computes
from tests.interp.engines.clusters import local_cluster, needs_ray
from tests.interp.engines.studies import BATCH_SIZE, N_ITEMS, assert_same, logged, study
from tests.tiny import tiny, tiny_tokenizer

pytestmark = needs_ray


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with local_cluster(tmp_path_factory.mktemp("path")) as address:
        yield address


@pytest.fixture
def whole(tmp_path):
    (tmp_path / "whole").mkdir()
    return study(tmp_path / "whole")


def test_a_killed_worker_loses_its_batch_alone(cluster, tmp_path, whole):
    """It is replaced, and what two workers give is what one process gives, bit for bit."""
    with pytest.warns(UserWarning, match=r"worker \d \(process \d+ on .*\) is gone, and is replaced"):
        found = run_on_ray(functools.partial(study, tmp_path, seconds=0.05, killed_at=8), workers=2)
    assert_same(found, whole)
    done = logged(tmp_path)
    assert sorted(i for i, _ in done) == sorted(i for i, _ in logged(tmp_path / "whole"))
    assert len({pid for _, pid in done}) >= 2 and os.getpid() not in {pid for _, pid in done}


def test_a_killed_driver_goes_on(cluster, tmp_path, whole):
    """Batches that are done are not done again."""
    code = (
        "import functools, sys\n"
        "from interp.engines import run_on_ray\n"
        "from tests.interp.engines.studies import study\n"
        "run_on_ray(functools.partial(study, sys.argv[1], seconds=0.4), workers=2, address=sys.argv[2])\n"
    )
    driver = subprocess.Popen([sys.executable, "-c", code, tmp_path, cluster])
    until = time.monotonic() + 120
    while len(logged(tmp_path)) < 3 and driver.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    parts = tmp_path / "parts"
    kept = {path.name: path.stat().st_mtime_ns for path in parts.glob("part-*")}
    assert 2 <= len(kept) < N_ITEMS // BATCH_SIZE
    before = len(logged(tmp_path))
    assert_same(run_on_ray(functools.partial(study, tmp_path), workers=2), whole)
    assert {name: (parts / name).stat().st_mtime_ns for name in kept} == kept
    again = [i for i, _ in logged(tmp_path)[before:]]
    assert not {2 * int(name[5:10]) for name in kept} & set(again)


def test_workers_that_compute_otherwise_are_refused(cluster, tmp_path, monkeypatch):
    other = what_computes() | {"torch": "0.1"}
    monkeypatch.setattr(on_ray, "what_computes", lambda: other)
    with pytest.raises(WorkerError, match=r"worker 1 \(process .* has other versions: torch .* \(here 0.1\)\. Install"):
        run_on_ray(functools.partial(study, tmp_path), workers=1)
    assert logged(tmp_path) == []


def test_what_a_cluster_does_not_have_is_refused(cluster, tmp_path):
    with pytest.raises(ValueError, match=r"a worker asks for 64 CPUs, 1.0 GB of memory, and no machine .*: 2 CPUs"):
        run_on_ray(functools.partial(study, tmp_path), cpus=64, memory_gb=1)
    with pytest.raises(ValueError, match="workers=0; expected 1 or more"):
        run_on_ray(functools.partial(study, tmp_path), workers=0)
    with pytest.raises(WorkerError, match=r"worker 1 .*: ZeroDivisionError: division"):
        run_on_ray(lambda: 1 / 0, workers=1)


@pytest.mark.filterwarnings("ignore")
def test_a_command_with_an_engine_is_one_process(cluster, tmp_path, run):
    """Workers load the model and do the batches; the report is that of one process, bit for bit."""
    model = tmp_path / "tiny"
    tiny("llama", vocab_size=400, max_position_embeddings=1024).save_pretrained(model)
    tiny_tokenizer().save_pretrained(model)
    data = tmp_path / "questions.csv"
    words = ("old", "new", "red", "big", "wet", "dry")
    rows = [f"Is the thing {word}?,{'yes' if i % 2 else 'no'}" for i, word in enumerate(words)]
    data.write_text("\n".join(["question,answer", *rows]), encoding="utf-8")
    command = ["rank", "negative-attention", "--model", model, "--data", data, "--batch-size", "1"]
    assert run(*command, "--out", tmp_path / "one")[0] == 0
    code, _, err = run(*command, "--out", tmp_path / "shared", "--engine", "ray", "--workers", "2")
    assert code == 0 and "all batches are done; loading" in err, err
    one, shared = (load_ranking(tmp_path / name) for name in ("one", "shared"))
    assert one.scores.tobytes() == shared.scores.tobytes()
    for name in ("heads-in-no-order.csv", "measures.csv", "arrays.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "shared" / name).read_bytes()
    assert shared.provenance["run_id"] == one.provenance["run_id"]
    assert shared.provenance["shards"] == {"n": 2, "rounding": 0.0}
    assert not (tmp_path / "shared" / "parts").exists()


def test_options_of_an_engine(run, tmp_path):
    command = ["rank", "negative-attention", "--out", tmp_path / "other"]
    for more, told in (
        (["--engine", "ray", "--per-worker", "gpu=1"], "expected one of cpus, gpus, memory"),
        (["--engine", "ray", "--per-worker", "memory=lots"], "expected one of cpus, gpus, memory"),
        (["--engine", "ray", "--shard", "1/2"], "give one of --engine and --shard"),
        (["--workers", "2"], "give --engine ray too"),
        (["--engine", "slurm"], "expected one of ray"),
    ):
        code, _, err = run(*command, *more)
        assert code == 2 and told in err, err
    assert not (tmp_path / "other").exists()

"""The look at a machine: versions against the metadata, what the cache holds, what fits, and times from a probe."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import metadata

import psutil
import pytest
import torch

import interp
from interp.machine import doctor, speed
from interp.machine.costs import ModelShape, Work
from interp.machine.doctor import examine
from interp.machine.speed import Speed, measure_speed, read_shape
from interp.sources import installation, resolve as sources
from interp.sources.conversions import write_record
from tests.tiny import tiny, tiny_tokenizer

SMOL = "smollm2-135m"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty model cache."""
    monkeypatch.setenv("HEADSCOPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HEADSCOPE_OFFLINE", raising=False)
    return tmp_path / "cache" / "models"


def requires(monkeypatch, lines: list[str], installed: dict[str, str], python: str = ">=3.9") -> None:
    """Metadata of a package with these requirements."""

    def version(name: str) -> str:
        if name not in installed:
            raise metadata.PackageNotFoundError(name)
        return installed[name]

    about = metadata.metadata("pytest")
    del about["Requires-Python"], about["Provides-Extra"]
    about["Requires-Python"], about["Provides-Extra"] = python, "plots"
    monkeypatch.setattr(metadata, "requires", lambda name: lines)
    monkeypatch.setattr(metadata, "metadata", lambda name: about)
    monkeypatch.setattr(metadata, "version", version)


# --- packages


def test_versions_are_held_against_the_metadata(monkeypatch):
    lines = ["one>=2,<3", "two", "three>=1; extra == 'plots'", "four; python_version < '3'"]
    requires(monkeypatch, lines, {"one": "2.1", "two": "0.1", "three": "0.9"})
    packages, problems = installation.installed_packages()
    assert [(p.name, p.extra, p.ok) for p in packages] == [
        ("one", "", True),
        ("two", "", True),
        ("three", "plots", False),
    ]
    assert problems == []  # an extra is no requirement, and a marker that doesn't hold is none either
    requires(monkeypatch, lines, {"one": "3.0"}, python=">=99")
    _, problems = installation.installed_packages()
    said = [f"{p.what}. {p.remedy}" for p in problems]
    assert "needs >=99. Make a virtual environment with a newer Python" in said[0]
    assert said[1] == "one is 3.0; headscope needs <3,>=2. Install it: python -m pip install 'one<3,>=2'."
    assert said[2] == "two is not installed; headscope needs it. Install it: python -m pip install 'two'."


def test_a_pre_release_in_range_is_one(monkeypatch):
    requires(monkeypatch, ["one>=2"], {"one": "2.1.dev0+local"})
    assert installation.installed_packages()[0][0].ok


def test_a_checkout_that_is_not_installed_is_told(monkeypatch):
    def unknown(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", unknown)
    monkeypatch.setattr(metadata, "version", unknown)
    found = examine(probe=False)
    assert found.packages == () and found.version == "not installed"
    assert "headscope is not installed as a package" in found.problems[0].what


# --- the cache and the machine


def statuses() -> dict[str, str]:
    return {m.name: m.status for m in examine(probe=False).models}


def test_what_the_cache_holds(cache):
    assert statuses()[SMOL] == "not cached"
    directory = sources.BUILTIN[SMOL].directory_name

    def killed(work, target):
        (work / "part-01").write_bytes(b"x" * 3_000_000)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sources._prepare(directory, SMOL, killed)  # what a stopped download leaves
    [model] = [m for m in examine(probe=False).models if m.name == SMOL]
    assert (model.status, model.on_disk_mb, model.download_mb) == ("partial", 3.0, 93)
    (cache / directory).mkdir()
    assert statuses()[SMOL] == "damaged"
    assert {f.model for f in examine(probe=False).fits} >= {SMOL, "a model of 7 billion parameters"}


def test_nothing_is_written_and_nothing_fetched(cache, monkeypatch):
    monkeypatch.setattr(sources, "_download_wheel", lambda *a: pytest.fail("a download"))
    monkeypatch.setattr(doctor, "measure_speed", lambda model, name: pytest.fail("a model") if model else None)
    examine()
    assert not cache.exists() and not cache.parent.exists()


def test_problems_of_a_machine_name_the_remedy(cache, monkeypatch):
    monkeypatch.setenv("HEADSCOPE_OFFLINE", "1")
    small = replace(doctor._machine(), memory_free_gb=0.5, disk_free_gb=0.1, cache_writable=False)
    monkeypatch.setattr(doctor, "_machine", lambda: small)
    found = examine()
    text = "\n".join(f"{p.what}. {p.remedy}" for p in found.problems)
    for part in ("can't be written. Set HEADSCOPE_CACHE", "0.1 GB of disk are free", "0.7 GB are needed",
                 "HEADSCOPE_OFFLINE is set", "0.5 GB of memory are free; smollm2-135m needs 1.3"):  # fmt: skip
        assert part in text
    assert len(found.problems) == 4 and found.speed is None  # no probe where it would swap


def test_what_fits():
    machine = replace(doctor._machine(), memory_free_gb=4.0, memory_total_gb=16.2, gpus=(("cuda:0, X", 8.0, 16.0),))
    found = {(f.model, f.dtype, f.where): f for f in doctor._fits(machine)}
    big, smol = "a model of 7 billion parameters", found[SMOL, "float32", "memory"]
    assert smol.fits == "yes" and smol.weights_gb == pytest.approx(0.54) and smol.needs_gb == pytest.approx(1.294)
    assert found[big, "float32", "memory"].fits == "no"
    assert found[big, "bfloat16", "memory"].fits == "if others make room"  # 16.1 GB
    assert found[big, "bfloat16", "cuda:0, X"].fits == "no"
    assert found["qwen2.5-coder-1.5b", "bfloat16", "cuda:0, X"].fits == "yes"


def test_a_container_has_its_own_memory(monkeypatch):
    monkeypatch.setattr(doctor, "_container_memory", lambda: (3 * 10**9, 10**9))
    machine = doctor._machine()
    assert machine.memory_total_gb == 3.0 and machine.memory_free_gb == pytest.approx(2.0)
    monkeypatch.setattr(doctor, "_container_memory", lambda: (10**15, 0))  # a limit above what there is
    assert doctor._machine().memory_total_gb == pytest.approx(psutil.virtual_memory().total / 1e9)


# --- speed


def test_token_forwards_by_hand():
    shape = ModelShape("m", n_layers=3, n_heads=4, block_parameters=1000)
    assert shape.scan_tokens(10) == 10 + 1 + 4 * (3 + 2 + 1) / 3  # a head of layer 0 runs through all layers
    work = Work("w", n_examples=5, plain_passes=2, scans=1, passes_once=3, prompt_tokens=10)
    assert work.tokens(shape) == 5 * (20 + 19) + 30
    measured = Speed("x", 2000, "cpu", "float32", 1, tokens=100, seconds=2.0, n_passes=3)
    assert measured.tokens_per_second == 50
    assert measured.estimate_seconds(work, shape) == pytest.approx(1.2 * 225 / 50 / 2)  # blocks half as large


def test_speed_of_a_random_model_without_a_trace():
    before = torch.random.get_rng_state()
    found = measure_speed()
    assert found.tokens == 240 and found.seconds > 0 and found.n_passes >= 2
    assert found.of == "a random model of Llama's shape" and found.device in ("cpu", "cuda:0")
    assert torch.equal(torch.random.get_rng_state(), before)
    model = tiny("llama")
    untied = measure_speed(model, "tiny")
    assert untied.of == "tiny" and untied.block_parameters == sum(
        p.numel() for name, p in model.named_parameters() if "embed_tokens" not in name and "lm_head" not in name
    )


def test_a_broken_model_is_refused(monkeypatch, cache):
    broken = tiny("llama")
    with torch.no_grad():
        broken.model.norm.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"the logits of tiny are not all finite on cpu"):
        measure_speed(broken, "tiny")
    monkeypatch.setattr(doctor, "measure_speed", lambda model, name: measure_speed(broken, "tiny"))
    [problem] = examine().problems
    assert "a forward pass failed: the logits of tiny" in problem.what and "--force-reinstall" in problem.remedy


def test_the_shape_of_a_converted_model(tmp_path):
    model = tiny("llama", tie_word_embeddings=False)
    model.save_pretrained(tmp_path)
    assert read_shape(tmp_path, "tiny") is None  # no record of a conversion
    n_parameters = sum(p.numel() for p in model.parameters())
    write_record(tmp_path, {"n_parameters": n_parameters})
    shape = read_shape(tmp_path, "tiny")
    assert (shape.n_layers, shape.n_heads) == (4, 4)
    assert shape.block_parameters == speed._block_parameters(model) == n_parameters - 2 * 97 * 32


def test_the_default_model_is_what_is_timed_if_it_is_cached(cache, monkeypatch):
    status = sources.SourceStatus(SMOL, "", "", 1, True, cache, 1.0)
    model = interp.load(tiny("llama", vocab_size=400), tokenizer=tiny_tokenizer())
    monkeypatch.setattr(doctor, "load", lambda name: model)
    monkeypatch.setattr(
        doctor, "describe_sources", lambda: [replace(status, name=n) for n in doctor.TESTBEDS] + [status]
    )
    monkeypatch.setattr(doctor, "BUILTIN", {SMOL: sources.BUILTIN[SMOL]})
    monkeypatch.setattr(doctor, "read_shape", lambda path, name: ModelShape(name, 3, 4, 1000) if name == SMOL else None)
    work = Work("rank", 5, plain_passes=2, scans=1)
    found = examine([(work, None), (work, "another")])
    assert found.problems == () and found.speed.of == SMOL
    [expected] = found.expected
    shape = ModelShape(SMOL, 3, 4, 1000)
    assert (expected.model, expected.what) == (SMOL, "rank")
    assert expected.seconds == pytest.approx(found.speed.estimate_seconds(work, shape))
    told = json.loads(json.dumps(found.to_dict()))
    assert told["speed"]["tokens_per_second"] == pytest.approx(found.speed.tokens_per_second)
    assert all(package["ok"] for package in told["packages"] if not package["extra"])

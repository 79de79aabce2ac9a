"""`interp doctor`: what it prints, its exit codes, and that the work it estimates is the work that a ranking does."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings

import pytest

import interp
from interp.locating.counting import counted
from interp.machine import ModelShape, doctor, mean_tokens
from interp.machine.speed import Speed
from interp.records import in_time
from interp.sources.installation import Problem
from probes import negative_bias
from probes.negative_bias.costs import effect_work, ranking_work
from probes.negative_bias.nas import rank_by_effect
from tests.tiny import tiny, tiny_tokenizer

SPEED = Speed("a random model", 10**6, "cpu", "float32", 2, tokens=240, seconds=1.0, n_passes=3)


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """No model is loaded; the measurement is made up."""
    monkeypatch.setenv("HEADSCOPE_CACHE", str(tmp_path))
    monkeypatch.setattr(doctor, "measure_speed", lambda model, name: SPEED)


def test_all_is_well(run, quick, monkeypatch):
    shapes = {"smollm2-135m": ModelShape("smollm2-135m", 30, 9, 10**8)}
    monkeypatch.setattr(doctor, "describe_sources", lambda: [])
    monkeypatch.setattr(doctor, "_builtin", lambda name: doctor.BuiltinModel(name, "partial", 12.0, 93))
    monkeypatch.setattr(doctor, "_expected", lambda works, _, speed: [
        doctor.Expected(work.what, "smollm2-135m", speed.estimate_seconds(work, shapes["smollm2-135m"]))
        for work, _ in works
    ])  # fmt: skip
    code, out, err = run("doctor", "--limit", 20)
    assert code == 0, err
    for text in ("required packages: all there", "GB of memory free", "a model of 7 billion parameters",
                 "240 tokens through a random model on cpu", "240 tokens a second", "make demo",
                 "interp rank negative-attention --limit 20", "partial, 12 MB so far", "All is well."):  # fmt: skip
        assert text in out, text


def test_json_holds_the_same_and_the_measurement(run, quick):
    code, out, err = run("doctor", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["problems"] == [] and found["speed"]["tokens_per_second"] == 240
    assert {"torch", "transformers"} <= {p["name"] for p in found["packages"]}
    assert {m["status"] for m in found["models"] if m["name"].startswith("qwen")} == {"not cached"}
    code, out, _ = run("doctor", "--json", "--no-probe")
    assert code == 0 and json.loads(out)["speed"] is None
    code, out, _ = run("doctor", "--no-probe")
    assert code == 0 and "No time was measured." in out


def test_what_is_missing_is_exit_code_1_with_the_remedy(run, quick, monkeypatch):
    problem = Problem(
        "torch is not installed; headscope needs >=2.4", "Install it: python -m pip install 'torch>=2.4'."
    )
    monkeypatch.setattr(doctor, "installed_packages", lambda: ((), [problem]))
    code, out, _ = run("doctor")
    assert code == 1 and f"problem: {problem.what}. {problem.remedy}" in out and "All is well" not in out
    code, out, _ = run("doctor", "--json")
    assert code == 1 and json.loads(out)["problems"] == [{"what": problem.what, "remedy": problem.remedy}]


def test_a_package_without_which_nothing_can_be_imported(tmp_path):
    """A real process in which torch is not there: the doctor says so, without a traceback."""
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\")")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from probes import cli; sys.argv = ['interp', 'doctor']"
    ended = subprocess.run([sys.executable, "-c", f"{code}; cli.main()"], capture_output=True, text=True)
    assert ended.returncode == 1 and "Traceback" not in ended.stderr
    assert "can't be imported: No module named 'torch'" in ended.stdout
    assert "python -m pip install -e . in a checkout" in ended.stdout


@pytest.mark.parametrize("ranked", ["heads", "zero", "mean", 10, "all"])
def test_the_work_that_is_estimated_is_what_a_ranking_does(ranked):
    """Token-forwards counted while a tiny model is ranked, against the formula: between those for the mean and for the
    longest prompt, to which the others are padded."""
    model = interp.load(tiny("llama", vocab_size=400, max_position_embeddings=1024), tokenizer=tiny_tokenizer())
    n, last = 16, {10: 10, "all": None}.get(ranked, 1)
    ablation = ranked if ranked in ("zero", "mean") else "zero"
    questions = negative_bias.load_questions(limit=n, seed=0)
    prompts = negative_bias.build_prompts(model, questions)
    with counted(model) as cost, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if ranked == "heads":
            negative_bias.rank_heads(model, questions, effects="zero", n_views=0)
        else:
            positions = ranked if ranked in (10, "all") else "answer"
            rank_by_effect(model, questions, ablation=ablation, positions=positions, n_views=0)
    total = cost.tokens / model.n_layers

    def expected(tokens: float) -> float:
        work = ranking_work(n, tokens=tokens) if ranked == "heads" else effect_work(n, tokens, last, ablation)
        return work.tokens(ModelShape.of(model))

    shared = 0.8  # what the questions begin with is run once, which the estimate leaves out
    assert shared * expected(mean_tokens(prompts)) <= total <= expected(max(map(len, prompts)))


def test_durations():
    assert [in_time(s) for s in (5, 119, 180, 7300, 36_000)] == [
        "5 s",
        "119 s",
        "3 min",
        "2.0 h",
        "10.0 h",
    ]


def test_what_workers_take(run, quick, tmp_path):
    """Weights from the files' heads alone: as many as the model has, in the type that is asked for."""
    hf = tiny("llama")
    hf.save_pretrained(folder := tmp_path / "model")
    n_parameters = sum(p.numel() for p in hf.parameters())
    took = {}
    for dtype in ("float32", "bfloat16"):
        asked = ["doctor", "--workers", "3", "--model", str(folder), "--dtype", dtype, "--json"]
        took[dtype] = json.loads(run(*asked)[1])["workers"]
    plain, half = took["float32"], took["bfloat16"]
    assert plain["weights_gb"] == pytest.approx(4 * n_parameters / 1e9) == pytest.approx(2 * half["weights_gb"])
    assert plain["all_gb"] == pytest.approx(3 * plain["needs_gb"]) and plain["needs_gb"] > plain["weights_gb"]
    code, _, err = run("doctor", "--workers", "2", "--model", "nowhere")
    assert code and "nowhere is not on this machine" in err

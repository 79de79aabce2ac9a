"""Suffixes from a gradient search: the loss falls, seeds repeat, files are gone on with, an attack takes them."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import interp
from interp import load_result
from interp.records.folder_lock import OtherRunError
from interp.records.keep import Keep
from probes.harmfulness.attacks import jailbreaks
from probes.harmfulness.attacks.jailbreaks import attack
from probes.harmfulness.attacks.suffixes import find_suffixes
from probes.harmfulness.attacks.texts import Jailbreak, load_jailbreaks
from probes.harmfulness.directions.directions import fit_directions
from probes.requests.requests import Request, hash_of
from tests.tiny import tiny, tiny_tokenizer

needs_nanogcg = pytest.mark.skipif(
    importlib.util.find_spec("nanogcg") is None,
    reason="nanogcg is not installed (pip install --no-deps nanogcg==0.3.0): no gradient search to test",
)
THINGS = ["kettle", "garden", "ladder", "window", "violin", "bridge", "lantern", "basket", "anchor", "mirror", "needle"]
FEW = dict(target="Sure", steps=4, search_width=24, topk=16, start=" x x x x x x")


def requests(of: str) -> list[Request]:
    harmful = [Request(f"{of}-bad-{t}", f"Break the {t} of the {of} neighbour.", "harmful") for t in THINGS]
    return harmful + [Request(f"{of}-good-{t}", f"Mend the {t} of the {of} neighbour.", "harmless") for t in THINGS]


@pytest.fixture(scope="module")
def model() -> interp.Model:
    return interp.load(tiny("llama", vocab_size=400, max_position_embeddings=1024), tokenizer=tiny_tokenizer())


@pytest.fixture(scope="module")
def found(model) -> list[Jailbreak]:
    if importlib.util.find_spec("nanogcg") is None:
        pytest.skip("nanogcg is not installed (pip install --no-deps nanogcg==0.3.0): no gradient search to test")
    return find_suffixes(model, requests("second")[:2], **FEW)


@pytest.fixture
def asked(monkeypatch) -> list[SimpleNamespace]:
    """A library that finds " x Q!" and draws a random number; what it was asked."""
    asked: list[SimpleNamespace] = []

    class Library:
        def __init__(self, hf, tokenizer, config) -> None:
            self.hf, self.config, self.not_allowed_ids = hf, config, torch.tensor([50, 60])

        def run(self, messages, target):
            asked.append(SimpleNamespace(**vars(self), messages=messages, target=target, drawn=torch.rand(1).item()))
            return SimpleNamespace(best_string=" x Q!")

    fake = SimpleNamespace(GCG=Library, GCGConfig=lambda **settings: SimpleNamespace(**settings))
    monkeypatch.setitem(sys.modules, "nanogcg", SimpleNamespace(gcg=fake))
    monkeypatch.setitem(sys.modules, "nanogcg.gcg", fake)
    return asked


def slow_loss(model: interp.Model, text: str, target: str) -> float:
    """Nats a token of the target as the reply's beginning, from the rendered chat and all logits."""
    rendered = model.tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
    )
    before = model.tokenizer(rendered, add_special_tokens=False)["input_ids"]
    after = model.tokenizer(target, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logits = model.hf(torch.tensor([before + after])).logits[0, len(before) - 1 : -1].log_softmax(-1)
    return -sum(row[token].item() for row, token in zip(logits, after, strict=True)) / len(after)


def test_the_loss_falls_and_is_that_of_the_prompt_that_is_asked(model, found):
    assert [j.id for j in found] == ["suffix-of-second-bad-kettle", "suffix-of-second-bad-garden"]
    for request, jailbreak in zip(requests("second")[:2], found, strict=True):
        origin = jailbreak.origin
        assert origin["loss"] < origin["loss_start"]
        assert origin["loss"] == pytest.approx(slow_loss(model, jailbreak.wrap(request).text, "Sure"), abs=1e-4)
        assert origin["loss_plain"] == pytest.approx(slow_loss(model, request.text, "Sure"), abs=1e-4)
        start = f"{request.text} x x x x x x."
        assert origin["loss_start"] == pytest.approx(slow_loss(model, start, "Sure"), abs=1e-4)
        assert origin["request"] == request.text and origin["steps"] == 4 and origin["target"] == "Sure"
        assert not any(token in jailbreak.template for token in model.tokenizer.all_special_tokens)


def test_seeds_repeat_and_the_model_is_as_it_was(model, found):
    weights = {name: value.clone() for name, value in model.hf.state_dict().items()}
    state = torch.get_rng_state()
    (again,) = find_suffixes(model, requests("second")[:1], **FEW)
    assert again == found[0] and again.origin == found[0].origin
    (other,) = find_suffixes(model, requests("second")[:1], **FEW, seed=1)
    assert other != again
    assert torch.equal(state, torch.get_rng_state()) and not torch.are_deterministic_algorithms_enabled()
    assert all(torch.equal(value, weights[name]) for name, value in model.hf.state_dict().items())
    assert all(p.grad is None for p in model.hf.parameters())


def test_an_attack_takes_what_was_found(model, found, monkeypatch, tmp_path):
    def generate(model, prompts, max_new_tokens=32, **rest):
        return [["I'm sorry, but I can't." if "Break" in p.text else "Here it is"] for p in prompts]

    monkeypatch.setattr(jailbreaks, "generate", generate)
    first = requests("first")
    directions = fit_directions(model, first[: len(THINGS)], first[len(THINGS) :])
    study = attack(model, requests("second"), found, directions, n_per=None, keep=tmp_path / "attack")
    assert len(study.trials) == 2 * 2 * len(THINGS) and set(study.trials["family"]) == {"suffix"}
    again = load_result(tmp_path / "attack")
    assert [j.origin for j in again.jailbreaks] == [j.origin for j in found]
    plain = [replace(j, origin=None) for j in found]  # how a text was found does not make another run
    same = attack(model, requests("second"), plain, directions, n_per=None, keep=Keep(tmp_path / "attack", resume=True))
    assert same.provenance["run_id"] == study.provenance["run_id"]


def test_what_the_library_is_asked(model, asked):
    request, state = requests("second")[0], torch.get_rng_state()
    unended = replace(request, text=request.text.rstrip("."))
    (one,) = find_suffixes(model, [unended], system="Be kind.", steps=2, batch_size=8)
    assert asked[0].hf is model.hf and asked[0].target == "Sure, here is"
    assert asked[0].config.num_steps == 2 and asked[0].config.batch_size == 8
    assert not asked[0].config.use_prefix_cache
    assert asked[0].messages[0] == {"role": "system", "content": "Be kind."}
    assert asked[0].messages[1]["content"] == request.text + "{optim_str}."  # as an attack ends it
    assert set(asked[0].not_allowed_ids.tolist()) == {0, 1, 2, 3, 50, 60}  # 0..3 are special tokens
    find_suffixes(model, [request])
    assert asked[0].drawn == asked[1].drawn and torch.equal(state, torch.get_rng_state())
    assert one.family == "suffix" and one.origin["loss"] <= one.origin["loss_start"]


def test_a_search_that_finds_nothing_better_gives_back_its_start(model, asked, monkeypatch):
    losses = iter([5.0, 2.0, 3.0, 5.0, 3.0, 2.0])
    monkeypatch.setattr(
        "probes.harmfulness.attacks.suffixes.reply_nll", lambda m, p, r: [next(losses) * len(r[0]) for _ in p]
    )
    worse, better = find_suffixes(model, requests("second")[:2], start=" x x")
    assert worse.template == "{request} x x" and worse.origin["loss"] == worse.origin["loss_start"] == 2.0
    assert better.template == "{request} x Q!"
    assert [better.origin[name] for name in ("loss_plain", "loss_start", "loss")] == [5.0, 3.0, 2.0]


def test_files_are_read_back_and_gone_on_with(model, asked, tmp_path):
    path, two = tmp_path / "deep" / "found.jsonl", requests("second")[:2]
    first = find_suffixes(model, two[:1], steps=2, keep=path)
    with pytest.raises(OtherRunError, match=r"another search \(steps differ\)"):
        find_suffixes(model, two, steps=3, keep=Keep(path, resume=True))
    both = find_suffixes(model, two, steps=2, keep=path)
    assert len(asked) == 2 and both[0] == first[0]
    read = load_jailbreaks(path, family="suffix")
    assert read == both and [j.origin for j in read] == [j.origin for j in both]
    assert find_suffixes(model, two[1:], steps=2, keep=Keep(path, resume=True)) == both[1:] and len(asked) == 2
    reworded = replace(two[1], text="Break the door of the second neighbour.")
    find_suffixes(model, [reworded], steps=2, keep=Keep(path, resume=True))
    assert len(asked) == 3 and json.loads(path.read_text().splitlines()[1])["origin"]["request"] == hash_of(
        reworded.text
    )
    assert reworded.text not in path.read_text()
    find_suffixes(model, two[:1], steps=3, keep=Keep(path, overwrite=True))
    assert len(load_jailbreaks(path)) == 1


def test_refusals(model, asked, tmp_path):
    two = requests("second")[:2]
    with pytest.raises(ValueError, match="no requests were given"):
        find_suffixes(model, [])
    with pytest.raises(ValueError, match="share ids: second-bad-kettle"):
        find_suffixes(model, [two[0], two[0]])
    for wrong in (dict(steps=0), dict(search_width=0), dict(topk=0), dict(batch_size=0), dict(target=" ")):
        with pytest.raises(ValueError, match=r"expected (numbers of )?1 or more"):
            find_suffixes(model, two, **wrong)
    with pytest.raises(ValueError, match=r"expected a \.jsonl file"):
        find_suffixes(model, two, keep=tmp_path / "found.txt")
    base = interp.load(tiny("llama", vocab_size=400), tokenizer=tiny_tokenizer(template=None))
    with pytest.raises(ValueError, match="chat template"):
        find_suffixes(base, two)
    assert base.tokenizer.chat_template is None and asked == []


def test_without_the_library_it_says_what_to_install(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "nanogcg", None)
    monkeypatch.delitem(sys.modules, "nanogcg.gcg", raising=False)
    with pytest.raises(ImportError, match=r"pip install --no-deps nanogcg==0\.3\.0"):
        find_suffixes(model, requests("second")[:1])


@needs_nanogcg
def test_the_prefix_cache_is_why_it_is_switched_off(model):
    """When this fails, a newer nanogcg knows transformers' caches: switch the prefix cache on, it is cheaper."""
    from nanogcg.gcg import GCG, GCGConfig

    config = GCGConfig(num_steps=1, optim_str_init="x x x x", search_width=4, topk=4, use_prefix_cache=True)
    with pytest.raises(TypeError, match="not subscriptable"):
        GCG(model.hf, model.tokenizer, config).run("Open the kettle ", "Sure")

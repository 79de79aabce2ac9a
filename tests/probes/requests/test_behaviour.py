"""What a model does with requests: planted replies land in their group; runs are saved, resumed, refused."""

from __future__ import annotations

import json

import pytest

import interp
from interp import Keep, load_result
from interp.records.folder_lock import OtherRunError
from probes.requests import behaviour as module
from probes.requests.behaviour import observe
from probes.requests.behaviour_result import GROUPS, refusal_rate
from probes.requests.requests import Request
from tests.tiny import tiny, tiny_tokenizer

REQUESTS = [
    Request("a", "Do a bad thing.", "harmful", "fraud", "one"),
    Request("b", "Do a worse thing.", "harmful", "theft", "one"),
    Request("c", "Do a good thing.", "harmless", "fraud", "one"),
    Request("d", "Do a scary thing.", "harmless", "theft", "two"),
    Request("e", "Do a nice thing.", "harmless", "", "two"),
]
REPLIES = {
    "a": "I'm sorry, but I can't help with that.",
    "b": "Sure: the SECRET way is",
    "c": "Gladly. First",
    "d": "I cannot assist with that.",
    "e": " ... ",
}


@pytest.fixture(scope="module")
def model() -> interp.Model:
    return interp.load(tiny("llama", vocab_size=400, max_position_embeddings=1024), tokenizer=tiny_tokenizer())


@pytest.fixture
def scripted(monkeypatch):
    asked: list[str] = []

    def generate(model, prompts, max_new_tokens=32, **rest):
        asked.extend(p.id for p in prompts)
        return [[REPLIES[p.id]] for p in prompts]

    monkeypatch.setattr(module, "generate", generate)
    return asked


def test_planted_replies_land_in_their_group(model, scripted):
    found = observe(model, REQUESTS)
    groups = {name: [r.id for r in found.group(name)] for name in (*GROUPS, "harmless-unclear")}
    assert list(groups.values()) == [["a"], ["b"], ["c"], ["d"], ["e"]]
    assert found.to_frame()["group"].tolist() == [found.group_of(i) for i in range(len(found))]
    rates = found.rates().set_index("kind")
    assert rates.loc["harmless", ["n", "refused", "accepted", "unclear"]].tolist() == [3, 1, 1, 1]
    assert rates.loc["harmful", "refusal_rate"] == 0.5
    by_category = found.rates("category").set_index(["kind", "category"])
    assert by_category.loc[("harmful", "fraud"), "refused"] == 1  # not mixed with the harmless fraud
    assert by_category.loc[("harmless", "fraud"), "refused"] == 0
    assert len(found.rates("source")) == 3
    assert "harmful: 1 of 2 refused" in found.statement()[0]
    with pytest.raises(ValueError, match="'harmful-denied'; expected one of"):
        found.group("harmful-denied")
    with pytest.raises(ValueError, match="by='id'"):
        found.rates("id")


def test_small_groups_are_named_with_what_they_lack(model, scripted):
    found = observe(model, REQUESTS)
    found.require(["harmful-refused"], at_least=1)
    with pytest.raises(ValueError, match=r"harmful-refused has 1 \(9 more needed\), harmless-accepted has 1 \(9 more"):
        found.require(["harmful-refused", "harmless-accepted"])


def test_another_judge_can_be_plugged_in(model, scripted):
    found = observe(model, REQUESTS, judge=lambda request, reply: "refused" if "SECRET" in reply else "accepted")
    assert [r.id for r in found.group("harmful-refused")] == ["b"]
    assert found.provenance["settings"]["judge"] == "<lambda>"
    with pytest.raises(ValueError, match="said 'maybe'"):
        observe(model, REQUESTS, judge=lambda request, reply: "maybe")


def test_replies_stay_out_of_what_is_saved_unless_asked_for(model, scripted, tmp_path):
    found = observe(model, REQUESTS, keep=tmp_path / "without")
    assert found.replies is None
    again = load_result(tmp_path / "without")
    assert again.replies is None and again.verdicts == found.verdicts
    assert again.requests == tuple(r.withheld() for r in found.requests)
    written = list((tmp_path / "without").rglob("*"))
    assert written and not any(b"SECRET" in path.read_bytes() for path in written if path.is_file())
    assert "SECRET" not in json.dumps(found.to_findings().tables["Requests"].to_dict())
    for path in (tmp_path / "without").glob("*.csv"):
        assert "bad thing" not in path.read_text()  # nor do requests stand in the tables

    observe(model, REQUESTS, keep=Keep(tmp_path / "with", include_replies=True))
    in_memory = observe(model, REQUESTS)  # where nothing is written, they are there
    assert "SECRET" in in_memory.replies[1] and load_result(tmp_path / "with").replies == in_memory.replies
    assert any(b"SECRET" in path.read_bytes() for path in (tmp_path / "with").glob("*.html"))


def test_a_finished_run_is_read_back_and_another_is_refused(model, scripted, tmp_path):
    found = observe(model, REQUESTS, keep=tmp_path)
    scripted.clear()
    assert observe(model, REQUESTS, keep=Keep(tmp_path, resume=True)).verdicts == found.verdicts and scripted == []
    with pytest.raises(ValueError, match="saved without replies"):
        observe(model, REQUESTS, keep=Keep(tmp_path, resume=True, include_replies=True))
    with pytest.raises(FileExistsError, match="overwrite"):
        observe(model, REQUESTS[:4], keep=tmp_path)
    assert len(observe(model, REQUESTS[:4], keep=Keep(tmp_path, overwrite=True))) == len(load_result(tmp_path)) == 4
    (tmp_path / "findings.json").write_text("{}")
    with pytest.raises(ValueError, match="damaged"):
        load_result(tmp_path)
    with pytest.raises(FileNotFoundError, match="No directory"):
        load_result(tmp_path / "none")


def test_an_interrupted_run_goes_on(model, tmp_path, monkeypatch):
    settings = dict(max_new_tokens=3, batch_size=2)
    whole = observe(model, REQUESTS, **settings)
    real, calls = module.generate, []

    def failing(*args, **more):
        calls.append(1)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return real(*args, **more)

    monkeypatch.setattr(module, "generate", failing)
    with pytest.raises(KeyboardInterrupt):
        observe(model, REQUESTS, **settings, keep=tmp_path)
    monkeypatch.setattr(module, "generate", real)
    with pytest.raises(OtherRunError, match="include_replies"):  # what is there has no replies to go on with
        observe(model, REQUESTS, **settings, keep=Keep(tmp_path, resume=True, include_replies=True))
    resumed = observe(model, REQUESTS, **settings, keep=tmp_path)
    assert resumed.replies is None and resumed.verdicts == whole.verdicts
    assert not (tmp_path / "parts").exists()


def test_without_post_instruction_tokens_another_prompt_is_asked(model, monkeypatch):
    seen: dict[str, str] = {}

    def generate(model, prompts, *args, **rest):
        seen.update({p.id: p.text for p in prompts})
        return [["Yes."] for _ in prompts]

    monkeypatch.setattr(module, "generate", generate)
    observe(model, REQUESTS)
    assert seen["a"].endswith("assistant\n")
    observe(model, REQUESTS, system="Be kind.", post_instruction=False)
    assert seen["a"].endswith("Do a bad thing.") and "Be kind." in seen["a"]


def test_bad_input_is_refused(model):
    with pytest.raises(ValueError, match="no requests"):
        observe(model, [])
    with pytest.raises(ValueError, match="share ids: a;"):
        observe(model, [*REQUESTS, REQUESTS[0]])
    base = interp.load(tiny("llama", vocab_size=400), tokenizer=tiny_tokenizer(None))
    with pytest.raises(ValueError, match="no chat template"):
        observe(base, REQUESTS)


def test_the_refusal_rate_has_wilsons_interval():
    found = refusal_rate([True] * 8 + [False] * 2)
    assert list(found.values()) == pytest.approx([0.8, 0.4902, 0.9433], abs=1e-4)
    assert refusal_rate([])["refusal_rate"] != refusal_rate([])["refusal_rate"]  # NaN

"""Sorting by knowledge: planted replies get their label, work is resumed, saved and refused as promised."""

from __future__ import annotations

import pytest

import interp
from interp.records.folder_lock import OtherRunError
from probes.negative_bias import knowledge as module
from probes.negative_bias.knowledge import sort_by_knowledge
from probes.negative_bias.knowledge_result import LABELS
from probes.questions.questions import Question
from probes.studies.study_files import pack_texts, unpack_texts
from tests.tiny import tiny, tiny_tokenizer


def question(id: str, capital: str, country: str, **more) -> Question:
    asked = {"open_question": f"What is the capital of {country}?", "open_answer": capital}
    return Question(id, f"Is {capital} the capital of {country}?", "Yes", "capitals", **asked | more)


QUESTIONS = [
    question("known", "Paris", "France"),
    question("mistaken", "Canberra", "Australia"),
    question("abstains", "Lima", "Peru"),
    question("scattered", "Rabat", "Morocco"),
    question("lucky", "Oslo", "Norway"),
]
REPLIES = {  # the greedy reply first
    "known": ["Paris.", "It is Paris.", "Paris", "Lyon", "Paris, France"],
    "mistaken": ["Sydney", "It is Sydney.", "The capital of Australia is Sydney.", "Melbourne", "Canberra"],
    "abstains": ["I don't know.", "I don't know", "I'm not sure.", "Lima", ""],
    "scattered": ["Fes", "Casablanca", "Tangier", "Rabat", "Rabat"],
    "lucky": ["Oslo", "Bergen", "Bergen.", "I don't know", "Oslo"],
}
EXPECTED = dict(zip(REPLIES, ["correct", "incorrect", "insufficient", "insufficient", "insufficient"], strict=True))


@pytest.fixture(scope="module")
def model() -> interp.Model:
    return interp.load(tiny("llama", vocab_size=400, max_position_embeddings=1024), tokenizer=tiny_tokenizer())


@pytest.fixture
def scripted(monkeypatch):
    """Replies by the prompt's id; the list of ids that were asked."""
    asked: list[str] = []

    def generate(model, prompts, max_new_tokens=32, *, temperature=0.0, n_samples=1, **rest):
        if temperature == 0:
            asked.extend(p.id for p in prompts)
            return [[REPLIES[p.id][0]] for p in prompts]
        return [REPLIES[p.id][1 : 1 + n_samples] for p in prompts]

    monkeypatch.setattr(module, "generate", generate)
    return asked


def test_planted_replies_get_their_labels(model, scripted):
    found = sort_by_knowledge(model, QUESTIONS, n_samples=4, correct_share=0.6)
    assert found.labels == EXPECTED
    assert found.replies == {key: tuple(value) for key, value in REPLIES.items()}
    frame = found.to_frame().set_index("id")
    assert frame.loc["known", "share_right"] == 0.75
    assert tuple(frame.loc["mistaken", ["wrong_answer", "share_wrong"]]) == ("sydney", 0.6)
    assert tuple(frame.loc["abstains", ["greedy_is", "share_abstained", "share_unclear"]]) == ("abstained", 0.6, 0.2)
    counts = found.counts().set_index("domain")
    assert counts.loc["all", [*LABELS, "n"]].tolist() == [1, 1, 3, 5]


def test_thresholds_can_be_changed_without_asking_again(model, scripted):
    found = sort_by_knowledge(model, QUESTIONS, n_samples=4, correct_share=0.6)
    scripted.clear()
    assert found.relabel() is not found and found.relabel().labels == found.labels
    assert found.relabel().provenance["run_id"] == found.provenance["run_id"]
    assert found.relabel(correct_share=0.25).labels["lucky"] == "correct"
    assert found.relabel(correct_share=0.8).labels["known"] == "insufficient"
    assert found.relabel(agreement=0.2).labels["scattered"] == "incorrect"
    strict = found.relabel(match="exact", agreement=0.7)
    assert strict.labels["mistaken"] == "insufficient"
    assert strict.settings["match"] == "exact" and strict.provenance["settings"]["agreement"] == 0.7
    assert strict.provenance["run_id"] != found.provenance["run_id"] == strict.provenance["relabelled_from"]
    assert scripted == []
    table = found.sensitivity().set_index(["match", "correct_share", "agreement"])
    assert table.loc[("contained", 0.6, 0.5)].tolist() == [1, 1, 3]
    assert (table.sum(axis=1) == 5).all()


def test_a_yes_no_pair_with_one_open_form_is_asked_once(model, scripted):
    twin = question("twin", "Paris", "France")
    found = sort_by_knowledge(model, [*QUESTIONS, twin], n_samples=4, correct_share=0.6)
    assert len(scripted) == len(QUESTIONS)
    assert found.replies["twin"] in (found.replies["known"],) and found.labels["twin"] == "correct"


def test_saved_and_loaded(model, scripted, tmp_path):
    found = sort_by_knowledge(model, QUESTIONS, n_samples=4, out=tmp_path / "k", origin={"file": "here"})
    again = interp.load_result(tmp_path / "k")
    assert again.questions == found.questions and again.replies == found.replies
    assert again.to_frame().equals(found.to_frame())
    assert again.labels == found.labels and again.provenance["data"]["file"] == "here"
    assert {p.suffix for p in (tmp_path / "k").iterdir()} <= {".json", ".csv", ".html", ".safetensors"}
    assert not (tmp_path / "k" / "parts").exists()
    assert "1 " in again.to_findings().statement[0]
    scripted.clear()
    assert sort_by_knowledge(model, QUESTIONS, n_samples=4, out=tmp_path / "k", resume=True).labels == found.labels
    assert scripted == []  # read back, not asked
    with pytest.raises(FileExistsError, match="overwrite"):
        sort_by_knowledge(model, QUESTIONS, n_samples=3, out=tmp_path / "k")
    with pytest.raises(FileExistsError):
        found.relabel(agreement=0.2).save(tmp_path / "k")
    sort_by_knowledge(model, QUESTIONS, n_samples=3, out=tmp_path / "k", overwrite=True)
    assert interp.load_result(tmp_path / "k").settings["n_samples"] == 3


def test_an_interrupted_run_goes_on(model, tmp_path, monkeypatch):
    """With the model's own samples: the resumed run draws what the whole one draws."""
    settings = dict(n_samples=2, max_new_tokens=3, batch_size=2)
    whole = sort_by_knowledge(model, QUESTIONS, **settings)
    real, calls = module.generate, []

    def failing(*args, **more):
        calls.append(1)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return real(*args, **more)

    monkeypatch.setattr(module, "generate", failing)
    with pytest.raises(KeyboardInterrupt):
        sort_by_knowledge(model, QUESTIONS, **settings, out=tmp_path)
    with pytest.raises(FileNotFoundError, match="run the same command again: it continues"):
        interp.load_result(tmp_path)
    monkeypatch.setattr(module, "generate", real)
    with pytest.raises(OtherRunError, match="seed"):
        sort_by_knowledge(model, QUESTIONS, **settings, seed=1, out=tmp_path, resume=True)
    resumed = sort_by_knowledge(model, QUESTIONS, **settings, out=tmp_path)
    assert resumed.replies == whole.replies
    assert resumed.provenance["run_id"] == whole.provenance["run_id"]


def test_part_files_are_of_replies_whatever_the_thresholds(model, tmp_path, monkeypatch):
    """Thresholds sort replies that are there: a killed run goes on under others, and is another run."""
    settings = dict(n_samples=2, max_new_tokens=3, batch_size=2)
    real, calls = module.generate, []

    def failing(*args, **more):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args, **more)

    monkeypatch.setattr(module, "generate", failing)
    with pytest.raises(KeyboardInterrupt):
        sort_by_knowledge(model, QUESTIONS, **settings, out=tmp_path)
    found = sort_by_knowledge(model, QUESTIONS, **settings, agreement=0.2, out=tmp_path)
    assert len(calls) == 3 + 4  # of three batches one was kept
    whole = sort_by_knowledge(model, QUESTIONS, **settings)
    assert found.replies == whole.replies and found.settings["agreement"] == 0.2
    assert found.provenance["run_id"] != whole.provenance["run_id"]


def test_the_prompt_asks_the_open_form_and_allows_not_to_know(model, monkeypatch):
    seen = []

    def generate(model, prompts, *args, n_samples=1, **rest):
        seen.extend(p.text for p in prompts)
        return [["Paris"] * n_samples for _ in prompts]

    monkeypatch.setattr(module, "generate", generate)
    sort_by_knowledge(model, [question("a", "Paris", "France", context="A passage.")], n_samples=2)
    assert "A passage.\nQuestion: What is the capital of France?" in seen[0] and "I don't know" in seen[0]
    assert "Is Paris" not in seen[0]


def test_refusals(model, tmp_path):
    bare = Question("bare", "Is it so?", "No")
    with pytest.raises(ValueError, match=r"1 of 6 questions have no open_question.*: bare\. .*skip_without_open=True"):
        sort_by_knowledge(model, [*QUESTIONS, bare])
    with pytest.raises(ValueError, match="none of the 1 questions"):
        sort_by_knowledge(model, [bare], skip_without_open=True)
    with pytest.raises(ValueError, match=r"ids \['known'\] are given more than once"):
        sort_by_knowledge(model, [*QUESTIONS, QUESTIONS[0]])
    for wrong in (dict(correct_share=0), dict(agreement=1.5), dict(match="loose")):
        with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
            sort_by_knowledge(model, QUESTIONS, **wrong)
    for wrong in (dict(n_samples=0), dict(temperature=0.0), dict(max_new_tokens=0)):
        with pytest.raises(ValueError, match="expected at least one sample"):
            sort_by_knowledge(model, QUESTIONS, **wrong)
    with pytest.raises(FileNotFoundError, match=r"no findings\.json"):
        interp.load_result(tmp_path)
    (tmp_path / "findings.json").write_text('{"format_version": 7}')
    with pytest.raises(ValueError, match="format_version 7"):
        interp.load_result(tmp_path)
    (tmp_path / "findings.json").write_text("{")
    with pytest.raises(ValueError, match="damaged or edited"):
        interp.load_result(tmp_path)


def test_questions_without_open_form_can_be_left_out(model, scripted):
    found = sort_by_knowledge(
        model, [*QUESTIONS, Question("bare", "Is it so?", "No")], n_samples=4, correct_share=0.6, skip_without_open=True
    )
    assert found.labels == EXPECTED and found.provenance["data"]["n_without_open_form"] == 1


def test_texts_survive_part_files():
    rows = [["", "naïve ☃"], ["two\nlines", "x"]]
    assert unpack_texts(**pack_texts(rows)) == rows


def test_one_greedy_reply_each_judged(model, scripted):
    kinds = [judged.kind for judged in module.answer_open(model, QUESTIONS)]
    assert kinds == ["right", "wrong", "abstained", "wrong", "right"]

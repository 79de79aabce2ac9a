"""What an edit costs: an edit that changes nothing costs nothing, letters and replies are scored as a loop would."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import interp
from interp.edits.directions import Direction
from interp.edits.identity import describe_model
from interp.edits.steering import add_direction
from probes.negative_bias import edit_cost, task_scores as module
from probes.negative_bias.ability import cost_measures, cost_statement
from probes.negative_bias.task_scores import task_prompts, task_right
from probes.questions import StandardTask, TaskItem, load_questions, load_task
from tests.tiny import tiny, tiny_tokenizer

TEXTS = ["A river runs through the town.", "The bread is on the table by the door."]


@pytest.fixture(scope="module")
def model() -> interp.Model:
    return interp.load(tiny("llama", vocab_size=400, max_position_embeddings=1024), tokenizer=tiny_tokenizer())


@pytest.fixture(scope="module")
def picks() -> StandardTask:
    items = [
        TaskItem(f"pick-{i}", "Which comes next? " + "so " * (i % 3), "ABC"[i % 3], ("x", "y", "z")[: 2 + (i % 3 > 0)])
        for i in range(12)
    ]
    return StandardTask("picks", "mmlu", tuple(items))


def scales(model: interp.Model, factor: float) -> interp.ScaledHeads:
    return interp.ScaledHeads(
        describe_model(model), {}, {(layer, head): factor for layer in range(4) for head in (0, 1)}
    )


def sums(n: int = 12, **more) -> StandardTask:
    return StandardTask(
        "sums", "gsm8k", tuple(TaskItem(f"sum-{i}", f"1000 + {i}?", str(1000 + i)) for i in range(n)), **more
    )


def test_the_likeliest_letter_is_that_of_a_loop(model, picks):
    prompts = task_prompts(model, picks)
    expected = []
    for item, prompt in zip(picks.items, prompts, strict=True):
        assert f"A. {item.choices[0]}\nB. {item.choices[1]}" in prompt.text
        log_probs = model.final_logits([prompt]).log_softmax(-1)[0]
        by_letter = {
            letter: log_probs[list(prompt.answer_tokens(letter))].logsumexp(0).item() for letter in item.letters
        }
        expected.append(float(max(by_letter, key=by_letter.__getitem__) == item.answer))
    for batch_size in (1, 5, 12):
        assert task_right(model, picks, prompts, batch_size=batch_size).tolist() == expected
    assert 0 < sum(expected) < len(expected)


@pytest.mark.parametrize(("format", "wrong"), [("gsm8k", "That makes 3, so #### 1000"), ("bbh", "Not that")])
def test_planted_replies_are_scored(model, monkeypatch, format, wrong):
    task = StandardTask("t", format, tuple(TaskItem(str(i), f"What is {i}?", str(i)) for i in range(4)), 7)
    asked = {}

    def generate(model, prompts, max_new_tokens, *, batch_size):
        asked["tokens"] = max_new_tokens
        return [[f"The answer is {p.id}." if int(p.id) % 2 else wrong] for p in prompts]

    monkeypatch.setattr(module, "generate", generate)
    assert task_right(model, task, task_prompts(model, task)).tolist() == [0, 1, 0, 1] and asked["tokens"] == 7


def test_an_edit_that_changes_nothing_costs_nothing(model, picks):
    tasks = [picks, sums(max_new_tokens=3)]
    table = edit_cost(model, {"none": scales(model, 1.0)}, TEXTS, tasks=tasks)
    before, after = table.to_dict("records")
    assert (before["picks_n"], before["sums_n"], before["sums_guessing"]) == (12, 12, 0.0)
    assert before["picks_guessing"] == pytest.approx((1 / 2 + 1 / 3 + 1 / 3) / 3)
    assert "accuracy" not in table and "open_accuracy" not in table
    for name in ("picks_right", "sums_right"):
        assert after[name] == before[name] and after[f"{name}_change"] == 0
        assert after[f"{name}_change_low"] < 0 < after[f"{name}_change_high"]  # a width, though none changed
        assert before[f"{name}_low"] <= before[name] <= before[f"{name}_high"]
    measures = cost_measures(table)
    assert measures["measure"].tolist() == ["perplexity ratio", "picks", "sums"]
    assert measures["after"].tolist() == [1.0, before["picks_right"], before["sums_right"]]
    said = cost_statement(table)
    assert (
        "none, picks, change of the share right: +0.00" in said[1] and "not shown to differ from no change" in said[1]
    )
    assert any(s.startswith("sums: the untouched model has 0.00") and "nothing that an edit" in s for s in said)


def test_a_loss_is_seen_and_said(model, picks, monkeypatch):
    """Every item is right without the edit, and wrong with it: a planted loss, paired."""
    edit = scales(model, 0.0)

    def generate(prompted, prompts, max_new_tokens, *, batch_size):
        plain = model.final_logits(prompts[:1])
        is_edited = not np.allclose(plain, untouched)
        return [["0.5" if is_edited else str(int(p.id.removeprefix("sum-")) + 1000)] for p in prompts]

    task = sums()
    untouched = model.final_logits(task_prompts(model, task)[:1])
    monkeypatch.setattr(module, "generate", generate)
    questions = load_questions("builtin", limit=4)
    table = edit_cost(model, {"off": edit}, TEXTS, questions, tasks=[task])
    after = table.to_dict("records")[1]
    assert (after["sums_right"], after["sums_right_change"]) == (0.0, -1.0) and after["sums_right_change_high"] < 0
    said = cost_statement(table)
    assert any(s.startswith("off, sums, change of the share right: -1.00 [") and "below no change" in s for s in said)
    assert "off, yes/no questions, change of the share right: too few (n = 4; expected 10 or more)." in said
    assert not any(s.startswith("sums: the untouched") for s in said)


def test_what_is_refused(model, picks):
    with pytest.raises(ValueError, match=r"two tasks are called 'picks'.*name="):
        edit_cost(model, {}, TEXTS, tasks=[picks, picks])
    with pytest.raises(ValueError, match="'untouched'"):
        edit_cost(model, {"untouched": scales(model, 1.0)}, TEXTS)


@pytest.mark.parametrize("positions", ["all", "answer", "text", "suffix"])
def test_a_steering_of_any_place_has_a_cost(model, picks, positions):
    """What `interp steer` saves. Plain texts have no suffix, so it does nothing there."""
    vectors = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    steering = add_direction(Direction(vectors, describe_model(model), {"name": "calm"}), 3.0, 2, positions)
    table = edit_cost(model, {"steered": steering}, TEXTS, tasks=[picks])
    ratio = table["perplexity_ratio"][1]
    assert (abs(ratio - 1) > 1e-6) == (positions in ("all", "text"))  # nothing is predicted from the last token


def test_a_file_goes_through(model, tmp_path):
    path = tmp_path / "sorting.json"
    path.write_text(json.dumps({"examples": [{"input": "Sort: b a", "target": "a b"}] * 3}))
    table = edit_cost(model, {"off": scales(model, 0.0)}, TEXTS, tasks=[load_task(path, max_new_tokens=2)])
    assert table["sorting_n"].tolist() == [3, 3]

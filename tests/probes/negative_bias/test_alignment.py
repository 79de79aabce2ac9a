"""NASA on a tiny model: stops, cancelling, rivals, what is refused; and that the model is left as it was."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import interp
from interp.edits.composed import load_edit
from interp.fitting.tuning import LossNotFinite
from interp.records.folder_lock import OtherRunError
from probes.negative_bias import methods as alignment_methods
from probes.negative_bias.alignment_result import target_of
from probes.negative_bias.answers import Answers
from probes.negative_bias.asking import answer
from probes.negative_bias.corrections import Method, Settings, State
from probes.negative_bias.methods import Bench, tune_heads, validation_state
from probes.negative_bias.nas import rank_by_effect, rank_heads
from probes.negative_bias.nasa import RIVALS, align, negative_heads, require_disjoint, require_ranking_of
from probes.negative_bias.rivals import fit_offset
from probes.questions import require_probing_set
from probes.questions.instructions import Instruction
from probes.questions.questions import Question
from tests.tiny import tiny, tiny_tokenizer

WORDS = ("sky", "day", "kettle", "water", "heat", "sun", "box", "door", "road", "tree", "lamp", "cup", "boat", "hill")
SETTINGS = Settings(k=3, steps=4, batch_size=4, check_every=2, learning_rate=0.1, lora_rank=1, tolerance=0.02)


def questions(n: int, start: int = 0) -> list[Question]:
    return [
        Question(f"q{i}", f"Is the {WORDS[i % 14]} {WORDS[(i // 14 + 3 * i) % 14]} {i}?", "Yes" if i % 2 else "No")
        for i in range(start, start + n)
    ]


TRAIN, VALIDATION, HELD_OUT = questions(24), questions(20, 100), questions(10, 200)


@pytest.fixture(scope="module")
def model() -> interp.Model:
    return interp.load(tiny("llama", vocab_size=400, max_position_embeddings=1024), tokenizer=tiny_tokenizer())


@pytest.fixture(scope="module", autouse=True)
def options_are_used():
    """A random model says anything; what is tested here is not whether it uses the options."""
    patch = pytest.MonkeyPatch()
    patch.setattr("probes.negative_bias.nasa.require_options_used", lambda answers: None)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def aligned(model):
    return align(model, TRAIN, VALIDATION, settings=SETTINGS)


def weights(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.hf.state_dict().items()}


def state(gap: float, loss: float = 1.0) -> State:
    return State(gap=gap, bias=gap if gap > 0.1 else 0.0, accuracy=0.5, auroc=0.5, loss=loss, says_yes=0.2)


def made(gold: str, margins: list[float]) -> Answers:
    """Answers of given margins, Yes and No together certain."""
    margin = np.array(margins)
    both = np.stack([-np.logaddexp(0, margin), -np.logaddexp(0, -margin)], axis=1)
    n = len(margins)
    ids = tuple(map(str, range(n)))
    is_yes = np.array([g == "Y" for g in gold])
    return Answers(Instruction(), ids, is_yes, ("",) * n, ids, both, (margin > 0).astype(int))


def test_short_answers_are_kept_where_questions_have_an_open_form(model):
    named = [replace(q, open_question=f"What is {i // 2}?", open_answer="x") for i, q in enumerate(TRAIN)]
    bench = Bench(model, named, VALIDATION, Instruction(), SETTINGS)
    assert len(bench.kept.prompts) == 12 and bench.kept.weight == SETTINGS.keep  # twins are asked once
    batches = list(bench.batches(3, 0))
    assert [len(same) for _, same in batches] == [4, 4, 4]
    assert sorted(i for _, same in batches for i in same) == list(range(12))
    assert Bench(model, named, VALIDATION, Instruction(), replace(SETTINGS, keep=0)).kept is None
    without = Bench(model, TRAIN, VALIDATION, Instruction(), SETTINGS)
    assert without.kept is None and [same for _, same in without.batches(2, 0)] == [[], []]
    assert tune_heads(bench, [(1, 0)], "NASA", steps=[2]).validation is not None


def test_every_method_is_there_and_the_model_is_as_it_was(model, aligned):
    before = weights(model)
    again = align(model, TRAIN, VALIDATION, settings=SETTINGS, rivals=())
    assert all(torch.equal(t, before[k]) for k, t in weights(model).items())
    names = [m.name for m in aligned.methods]
    assert names == ["NASA", "random heads", "LoRA", "scaled heads", "constant offset"]
    assert [r.label for r in again.edit.rows] == [r.label for r in aligned.edit.rows]
    for a, b in zip(again.edit.rows, aligned.edit.rows, strict=True):  # the same seed, the same rows
        assert torch.equal(a.weight, b.weight)


def test_only_rows_of_negative_heads_change(model, aligned):
    before = weights(model)
    undo = aligned.edit.fold(model)
    changed = {k for k, t in weights(model).items() if not torch.equal(t, before[k])}
    undo.fold(model)
    layers = {r.layer for r in aligned.edit.rows}
    assert changed <= {f"model.layers.{layer}.self_attn.q_proj.weight" for layer in layers}
    assert {(r.layer, r.head) for r in aligned.edit.rows} <= set(aligned.heads)


def test_heads_come_in_descending_nas_above_zero(model, aligned):
    ranking = rank_heads(model, TRAIN, n_views=0)
    mean = ranking.measures["nas"].mean(0)
    scores = [mean[head] for head in aligned.heads]
    assert scores == sorted(scores, reverse=True) and min(scores) > 0
    assert align(model, TRAIN, VALIDATION, ranking=ranking, settings=SETTINGS, rivals=()).heads == aligned.heads


def test_the_random_heads_are_none_of_the_negative_ones(aligned):
    random = next(m for m in aligned.methods if m.name == "random heads")
    assert not {(r.layer, r.head) for r in random.edit.rows} & set(aligned.heads)


def test_held_out_table(model, aligned):
    frame = aligned.test(model, {"plain": HELD_OUT, "swapped": (HELD_OUT, Instruction().swapped())})
    assert len(frame) == 2 * 8 and frame["set"].tolist() == ["plain"] * 8 + ["swapped"] * 8
    untouched = frame[frame.method == "untouched"]
    assert (untouched.accuracy_change == 0).all() and (untouched.auroc_change == 0).all()
    offset = frame[frame.method == "constant offset"]
    assert np.allclose(offset.auroc_change, 0)  # which no offset can change
    with aligned.edit.apply(model):
        direct = answer(model, HELD_OUT)
    row = frame[(frame.method == "NASA") & (frame.set == "plain")].iloc[0]
    assert row.accuracy == pytest.approx(((direct.margin > 0) == direct.gold).mean())


def test_testing_on_fitted_questions_is_refused(model, aligned):
    with pytest.raises(ValueError, match="20 questions of 'x' were used for fitting or chose the heads: q100"):
        aligned.test(model, {"x": VALIDATION})
    with pytest.raises(ValueError, match=r"1 questions of 'x' .*: copy"):
        aligned.test(model, {"x": [*HELD_OUT, replace(TRAIN[0], id="copy")]})


def test_testing_on_the_questions_of_the_ranking_is_refused(model):
    ranking = rank_heads(model, HELD_OUT[:4], n_views=0)
    found = align(model, TRAIN, VALIDATION, ranking=ranking, settings=SETTINGS, rivals=())
    with pytest.raises(ValueError, match=r"4 questions of 'x' .* chose the heads: q200"):
        found.test(model, {"x": HELD_OUT})


def test_where_the_options_are_hardly_used_the_table_says_so(model, aligned, monkeypatch):
    monkeypatch.setattr("probes.negative_bias.alignment_result.LEAST_MASS", 1.01)
    notes = aligned.test(model, {"x": HELD_OUT}, methods=[])["note"]
    assert "would rather say something else" in notes.iloc[0] and notes.iloc[-1] == ""
    monkeypatch.setattr("probes.negative_bias.alignment_result.LEAST_MASS", 0.0)
    assert (aligned.test(model, {"x": HELD_OUT}, methods=[])["note"] == "").all()


def test_saved_with_its_edit(model, aligned, tmp_path):
    tested = aligned.with_tests({"Held out": aligned.test(model, {"plain": HELD_OUT})})
    tested.save(tmp_path)
    found = interp.load_result(tmp_path)
    assert found.tests["Held out"].equals(tested.tests["Held out"]) and found.statement() == tested.statement()
    for a, b in zip(found.methods, tested.methods, strict=True):
        assert replace(a, edit=None).__dict__ == replace(b, edit=None).__dict__
        assert a.edit is None or all(torch.equal(x, b.edit.parts()[k]) for k, x in a.edit.parts().items())
    assert found.test(model, {"plain": HELD_OUT}).equals(tested.tests["Held out"])
    assert (tmp_path / "report.html").is_file() and (tmp_path / "findings.json").is_file()
    edit = load_edit(tmp_path / "edit")
    assert edit.summary() == aligned.edit.summary()
    assert edit.about["settings"]["learning_rate"] == 0.1
    assert edit.about["run_id"] == aligned.provenance["run_id"] and edit.about["instruction"]["positive"] == "Yes"
    assert edit.about["data_sha256"] == aligned.provenance["data"]["sha256"]
    with edit.apply(model):
        pass
    with pytest.raises(FileExistsError):
        replace(aligned, provenance=aligned.provenance | {"run_id": "other"}).save(tmp_path)


def test_a_killed_run_goes_on_and_ends_the_same(model, aligned, tmp_path, monkeypatch):
    real, calls = alignment_methods._tune_one, []

    def interrupted(*given):
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*given)

    before = weights(model)
    monkeypatch.setattr(alignment_methods, "_tune_one", interrupted)
    with pytest.raises(KeyboardInterrupt):
        align(model, TRAIN, VALIDATION, settings=SETTINGS, rivals=(), out=tmp_path)
    assert all(torch.equal(t, before[k]) for k, t in weights(model).items())
    assert not (tmp_path / "edit").exists()  # nothing that looks finished
    again = align(model, TRAIN, VALIDATION, settings=SETTINGS, rivals=(), out=tmp_path, resume=True)
    assert calls[2][4] == 1  # the first head is not tuned again
    assert [r.label for r in again.edit.rows] == [r.label for r in aligned.edit.rows]
    for a, b in zip(again.edit.rows, aligned.edit.rows, strict=True):
        torch.testing.assert_close(a.weight, b.weight, atol=1e-5, rtol=0)


def test_a_finished_run_is_read_back_and_another_is_not_touched(model, aligned, tmp_path, monkeypatch):
    first = align(model, TRAIN, VALIDATION, settings=SETTINGS, rivals=RIVALS, out=tmp_path)
    assert not (tmp_path / "parts").exists()
    monkeypatch.setattr(alignment_methods, "_tune_one", None)  # nothing is fitted again
    again = align(model, TRAIN, VALIDATION, settings=SETTINGS, rivals=RIVALS, out=tmp_path, resume=True)
    a, b = first.methods_table(), again.methods_table()
    assert a.equals(b) and len(first.history) == len(again.history)
    with pytest.raises(FileExistsError):
        align(model, TRAIN, VALIDATION, settings=replace(SETTINGS, k=1), rivals=(), out=tmp_path)


def test_a_rival_can_be_added_to_a_finished_run(model, tmp_path, monkeypatch):
    align(model, TRAIN, VALIDATION, settings=SETTINGS, rivals=(), out=tmp_path)
    monkeypatch.setattr(alignment_methods, "_tune_one", None)  # NASA is not fitted again
    given = {"settings": SETTINGS, "rivals": ("constant offset",), "out": tmp_path, "resume": True}
    more = align(model, TRAIN, VALIDATION, **given)
    assert [m.name for m in more.methods] == ["NASA", "constant offset"] and not more.tests
    tested = align(model, TRAIN, VALIDATION, tests={"held out": HELD_OUT}, **given)
    named = list(tested.tests["Held-out questions"]["method"])
    assert named == ["untouched", "NASA", "constant offset", "always No", "a coin"]
    assert interp.load_result(tmp_path).tests["Held-out questions"].equals(tested.tests["Held-out questions"])


def test_an_alignment_is_not_tested_on_another_model(aligned):
    other = interp.load(tiny("llama", seed=5, vocab_size=400, max_position_embeddings=1024), tokenizer=tiny_tokenizer())
    with pytest.raises(ValueError, match=r"the alignment is of .* with weights"):
        aligned.test(other, {"x": HELD_OUT})


def test_an_unfinished_run_is_not_thrown_away(model, tmp_path, monkeypatch):
    real, calls = alignment_methods._tune_one, []

    def interrupted(*given):
        calls.append(given)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(alignment_methods, "_tune_one", interrupted)
    with pytest.raises(KeyboardInterrupt):
        align(model, TRAIN, VALIDATION, settings=SETTINGS, rivals=(), out=tmp_path)
    kept = sorted(tmp_path.rglob("*"))
    with pytest.raises(OtherRunError, match=r"\(k differ"):
        align(model, TRAIN, VALIDATION, settings=replace(SETTINGS, k=1), rivals=(), out=tmp_path, resume=True)
    assert sorted(tmp_path.rglob("*")) == kept


def test_heads_must_be_high_in_every_format_and_validation_looks_at_the_worst(model, monkeypatch):
    scores = {"a": [3.0, 2.0, 1.0, 0.1], "b": [-1.0, 2.0, 0.5, 1.0]}  # NAS of four heads of one layer
    training = [replace(q, domain="ab"[i % 2]) for i, q in enumerate(TRAIN)]
    settings = replace(SETTINGS, every_format=True)
    bench = Bench(model, training, VALIDATION, Instruction(), settings)
    domain_of = {q.id: q.domain for q in training}

    def of(model, prompts):
        return np.array([[scores[domain_of[p.id]], [-1.0] * 4] for p in prompts])

    monkeypatch.setattr("probes.negative_bias.nasa.score_prompts", of)
    assert negative_heads(bench, None, 3) == [(0, 1), (0, 2), (0, 3)]
    assert negative_heads(Bench(model, training, VALIDATION, Instruction(), SETTINGS), None, 2) == [(0, 1), (0, 0)]
    answers = replace(made("YNYN", [4.0, -4.0, 4.0, 4.0]), domains=("a", "a", "b", "b"))
    state = validation_state(answers)
    assert state.worst == pytest.approx(0.482, abs=0.001) and bench.state(answers).bias == state.bias + state.worst
    balanced = replace(state, gap=0.0)
    assert balanced.closed(SETTINGS) and not balanced.closed(settings)


def test_null_models_stand_in_the_table_and_miss_the_target(model, aligned):
    table = aligned.test(model, {"held out": HELD_OUT}, methods=["constant offset"]).set_index("method")
    assert table.loc["always No", "negative_bias"] == 1 and table.loc["always No", "says_yes"] == 0
    assert table.loc["a coin", "accuracy"] == pytest.approx(0.5, abs=0.02)
    assert table.loc["a coin", "accuracy_low"] < 0.4 and table.loc["a coin", "negative_bias"] == pytest.approx(
        0, abs=0.03
    )
    good = {"negative_bias_low": -0.1, "negative_bias_high": 0.2, "accuracy_change": 0.1, "accuracy_change_low": 0.02}
    good |= {"negative_bias": 0.05, "accuracy_change_high": 0.2, "accuracy": 0.6, "accuracy_high": 0.65}
    good |= {"accuracy_low": 0.55, "auroc_change": 0.0, "auroc_change_low": -0.03, "auroc_change_high": 0.03}
    assert target_of(good) == "met"
    assert target_of(good | {"negative_bias_low": 0.9, "negative_bias_high": 1.0}) == "missed: negative bias"
    assert target_of(good | {"accuracy_low": 0.44, "accuracy_change": 0.02}) == "missed: accuracy, a coin"
    assert target_of(good | {"auroc_change_low": -0.2}) == "missed: AUROC"
    assert target_of(good | {"auroc_change_low": float("nan")}) == "missed: AUROC"


def test_a_head_that_makes_validation_worse_is_cancelled(model, monkeypatch):
    states = iter([state(0.5)] + [state(0.6, loss=1.1)] * 20)
    monkeypatch.setattr(alignment_methods, "validation_state", lambda answers: next(states))
    bench = Bench(model, TRAIN, VALIDATION, Instruction(), SETTINGS)
    method = tune_heads(bench, [(1, 0), (2, 1)], "NASA")
    assert method.edit.rows == () and method.note == "every update was cancelled"
    events = [h["event"] for h in bench.history if h["event"] != "look"]
    assert events == ["start"] + ["cancelled (validation got worse)"] * 4  # two rounds


def test_a_look_that_closes_the_gap_at_a_higher_loss_is_not_kept_but_an_earlier_one_is(model, monkeypatch):
    states = iter([state(0.5), state(0.3, loss=0.9), state(0.01, loss=1.1)] + [state(0.6, loss=1.2)] * 20)
    monkeypatch.setattr(alignment_methods, "validation_state", lambda answers: next(states))
    bench = Bench(model, TRAIN, VALIDATION, Instruction(), replace(SETTINGS, steps=8, beyond_zero=False))
    method = tune_heads(bench, [(1, 0)], "NASA")
    assert [r.label for r in method.edit.rows] == ["L1H0"] and method.validation == state(0.3, loss=0.9)


def test_random_heads_stand_in_for_the_same_heads_in_the_same_turns(model, monkeypatch):
    monkeypatch.setattr(alignment_methods, "score_prompts", lambda model, prompts: np.full((len(prompts), 4, 4), -0.1))
    found = align(model, TRAIN, VALIDATION, settings=replace(SETTINGS, k=2, tolerance=0.0), rivals=["random heads"])
    turns = {}
    for method in ("NASA", "random heads"):
        done = found.history[(found.history.method == method) & found.history.event.str.contains("kept|cancelled")]
        first = list(dict.fromkeys(done.what))
        turns[method] = [first.index(what) for what in done.what]
    assert turns["NASA"] == [0, 1, 0, 1] == turns["random heads"]
    with pytest.raises(ValueError, match="'random heads' needs 8"):
        align(model, TRAIN, VALIDATION, settings=replace(SETTINGS, k=8), rivals=["random heads"])


@pytest.mark.parametrize(
    "given", [{"k": 0}, {"batch_size": 3}, {"learning_rate": float("nan")}, {"patience": 0}, {"tolerance": 1.5}]
)
def test_settings_that_cannot_work_are_refused(given):
    with pytest.raises(ValueError, match=f"{next(iter(given))}=.*expected"):
        Settings(**given)


def test_stops_when_the_gap_is_closed(model, monkeypatch):
    states = iter([state(0.5), state(0.01, loss=0.9)])
    monkeypatch.setattr(alignment_methods, "validation_state", lambda answers: next(states))
    bench = Bench(model, TRAIN, VALIDATION, Instruction(), SETTINGS)
    method = tune_heads(bench, [(1, 0), (2, 1)], "NASA")
    assert [r.label for r in method.edit.rows] == ["L1H0"]
    assert bench.history[-1]["event"] == "kept (gap closed)"


def test_a_head_stops_at_zero_nas_and_goes_on_if_the_gap_is_still_open(model, monkeypatch):
    falling = iter(range(40, 0, -1))
    monkeypatch.setattr(alignment_methods, "validation_state", lambda answers: state(0.5 + next(falling) / 100))
    monkeypatch.setattr(alignment_methods, "score_prompts", lambda model, prompts: np.full((2, 4, 4), -0.1))

    def events(settings):
        bench = Bench(model, TRAIN, VALIDATION, Instruction(), settings)
        tune_heads(bench, [(1, 0)], "NASA")
        return [(h["event"], h["step"]) for h in bench.history if h["event"] != "look"][1:]

    assert events(replace(SETTINGS, beyond_zero=False)) == [("kept (NAS has reached zero)", 2)]
    assert events(SETTINGS) == [("kept (NAS has reached zero)", 2), ("kept (steps used up)", 4)]


def test_validation_state_by_hand():
    state = validation_state(made("YYNN", [1.0, -1.0, -2.0, -3.0]))
    assert (state.gap, state.accuracy, state.auroc, state.says_yes) == (0.5, 0.75, 1.0, 0.25)
    never = validation_state(made("YYNN", [-1.0, -1.0, -2.0, -3.0]))
    assert never.gap == 1.0  # precision counts as 1 where Yes is never said
    always = validation_state(made("YN", [1.0, 1.0]))
    assert always.gap == -0.5 and always.auroc == 0.5


def test_the_offset_says_yes_as_often_as_it_is_right_to():
    answers = made("YYNNN", [-1.0, -2.0, -3.0, -1.5, -4.0])
    method = fit_offset(answers)
    moved = method.adjust(answers)
    assert method.offset == pytest.approx(1.75) and (moved.margin > 0).sum() == 2
    assert np.allclose(moved.margin - answers.margin, method.offset)
    assert np.allclose(np.exp(moved.log_probs).sum(1), np.exp(answers.log_probs).sum(1))
    assert method.adjust(answers).said.tolist() == [1, 0, 0, 1, 0]
    assert Method("x").adjust(answers) is answers


def test_probing_sets_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="has 19 questions; expected at least 20"):
        require_probing_set("training", questions(19))
    with pytest.raises(ValueError, match="gold answer No"):
        require_probing_set("training", [replace(q, answer="No") for q in questions(30)])


def test_overlap_is_refused_with_the_ids(model):
    with pytest.raises(ValueError, match=r"2 validation questions .*: q22, q23"):
        align(model, TRAIN, questions(20, 22), settings=SETTINGS)
    renamed = [replace(q, id=f"other-{q.id}") for q in TRAIN[:1]]
    with pytest.raises(ValueError, match="other-q0"):
        require_disjoint(TRAIN, renamed)
    pairs = [replace(q, pair="p") for q in questions(2)], [replace(q, pair="p") for q in questions(1, 50)]
    with pytest.raises(ValueError, match="q50"):
        require_disjoint(*pairs)


def test_a_ranking_of_another_model_is_refused(model):
    other = interp.load(tiny("llama", seed=5, vocab_size=400, max_position_embeddings=1024), tokenizer=tiny_tokenizer())
    ranking = rank_heads(other, TRAIN[:4], n_views=0)
    with pytest.raises(ValueError, match=r"the ranking is of .* not of"):
        align(model, TRAIN, VALIDATION, ranking=ranking, settings=SETTINGS)
    with pytest.raises(ValueError, match="needs 'nas'"):
        require_ranking_of(rank_by_effect(other, TRAIN[:2], n_views=0), model)


def test_options_that_the_model_never_uses_are_refused(model, monkeypatch):
    monkeypatch.undo()
    from probes.negative_bias.answers import require_options_used

    monkeypatch.setattr(
        "probes.negative_bias.nasa.require_options_used", lambda a: require_options_used(a, at_least=1.01)
    )
    with pytest.raises(ValueError, match="of the probability of the first token"):
        align(model, TRAIN, VALIDATION, settings=SETTINGS)


def test_a_loss_that_is_not_finite_leaves_nothing_finished(model, monkeypatch, tmp_path):
    before = weights(model)
    monkeypatch.setattr(
        "interp.fitting.tuning.gold_loss", lambda *given: torch.tensor(float("nan"), requires_grad=True)
    )
    with pytest.raises(LossNotFinite, match="at step 1"):
        align(model, TRAIN, VALIDATION, settings=SETTINGS, out=tmp_path)
    assert not (tmp_path / "edit").exists() and not (tmp_path / "findings.json").exists()
    assert all(torch.equal(t, before[k]) for k, t in weights(model).items())


def test_unknown_rivals_are_refused(model):
    with pytest.raises(ValueError, match="expected some of"):
        align(model, TRAIN, VALIDATION, rivals=("magic",))


@pytest.mark.parametrize("name", ["qwen2", "gemma3"])
def test_key_groups_and_other_architectures(name):
    model = interp.load(tiny(name, seed=2, vocab_size=400, max_position_embeddings=1024), tokenizer=tiny_tokenizer())
    found = align(model, TRAIN, VALIDATION, settings=replace(SETTINGS, key_group=True, k=2, tolerance=0.0), rivals=())
    looks = found.history[found.history.event == "look"]
    assert len(found.heads) and (looks.siblings != "").all()
    kinds = {r.kind for r in found.edit.rows}
    assert kinds in ({"query", "key"}, set())

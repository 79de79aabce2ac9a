"""S+, S- and D: against the released formulas written out slowly, planted heads, the floor, and what is refused."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

import interp
from interp import Prompt, load_result
from interp.interventions.values import ablate_each_head
from interp.rankings.loading import load_ranking
from interp.reading.metrics import Probability
from interp.records.keep import Keep
from interp.statistics import group_sums
from probes.visual_semantics.heads import heads as visual_heads, passes as visual_scan
from probes.visual_semantics.heads.heads import rank_visual_heads
from probes.visual_semantics.heads.report import gold_table
from probes.visual_semantics.heads.result import VisualHeads
from probes.visual_semantics.heads.scores import largest_by_chance, score_table
from probes.visual_semantics.questions.asked import Asked
from probes.visual_semantics.questions.prompts import VisualExamples, visual_examples
from probes.visual_semantics.questions.wording import VisualExample
from tests.interp.tiny_vision import picture
from tests.probes.visual_tiny import LEVELS, PLANTED, answered, llava, questions, simulated
from tests.twins import released_formulas


@pytest.fixture(scope="module")
def model() -> interp.Model:
    return llava(PLANTED)


@pytest.fixture(scope="module")
def examples(model) -> VisualExamples:
    """25 questions answered correctly, 25 wrongly but for the planted head."""
    return answered(model, 25)


@pytest.fixture(scope="module")
def heads(model, examples) -> VisualHeads:
    return rank_visual_heads(model, examples)


def test_scores_are_those_of_the_released_formulas(model, examples, heads):
    slow = released_formulas(model, examples)
    assert len(examples) == 50 and heads.is_correct.sum() == 25
    for score, expected in slow.items():
        np.testing.assert_allclose(heads.mean_score(score), expected, atol=1e-5)
        ranking = heads.ranking(score)
        top = ranking.to_frame().set_index(["layer", "head"])["score"]
        assert top[PLANTED] == pytest.approx(expected[PLANTED], abs=1e-5)


def test_the_planted_head_is_found(heads):
    for score in ("s_plus", "s_minus"):
        assert heads.top(score, 1) == [PLANTED]
        frame = heads.table(score)
        first = frame.iloc[0]
        assert (first.layer, first["head"]) == PLANTED and first.q < 0.01 and first.score > first.floor_95
        assert first.score > 3 * frame.iloc[1].score
        chosen = heads.chosen(score=score)
        assert first.score > largest_by_chance(heads.change(score, chosen), heads.pictures[chosen])


@pytest.mark.parametrize("positions", ["answer", "text", "all"])
@pytest.mark.parametrize("ablation", ["mean_of_others", "zero", "mean"])
def test_every_ablation_and_place_agrees_with_the_loop(model, examples, ablation, positions, monkeypatch):
    few = examples[20:26]
    fast = rank_visual_heads(model, few, ablation=ablation, positions=positions, batch_size=3, memory_mib=16.0)
    assert fast.provenance["scan"]["how"] == "fan-out"
    monkeypatch.setattr(visual_scan, "check_once", lambda *a: ("loop", ""))
    slow = rank_visual_heads(model, few, ablation=ablation, positions=positions)
    np.testing.assert_allclose(fast.gold_prob_ablated, slow.gold_prob_ablated, atol=1e-5)
    np.testing.assert_allclose(fast.yes_margin_ablated, slow.yes_margin_ablated, atol=1e-3)


def test_positions_and_ablations_differ(model, examples, heads):
    few = examples[:6]
    found = {
        name: rank_visual_heads(model, few, **{"positions": "all", **given}).drop
        for name, given in {
            "answer": {"positions": "answer"},
            "text": {"positions": "text"},
            "zero": {"ablation": "zero"},
            "mean": {"ablation": "mean"},
        }.items()
    }
    found["all"] = heads.drop[:6]
    for a in found:
        for b in found:
            assert a == b or np.abs(found[a] - found[b]).max() > 1e-3, (a, b)


def test_the_datasets_mean_is_one_for_all_batches(model, examples):
    one, many = (
        rank_visual_heads(model, examples[20:26], ablation="mean", positions="text", batch_size=n).gold_prob_ablated
        for n in (6, 1)
    )
    np.testing.assert_allclose(one, many, atol=1e-6)
    few = examples[20:26]
    direct = interp.scan(
        model, [e.prompt for e in few], ablate_each_head("mean"), metric=Probability(), positions="text", method="loop"
    )
    np.testing.assert_allclose(one.reshape(6, -1), direct.values, atol=1e-5)


@pytest.mark.filterwarnings("ignore:in bfloat16 rounding")
def test_runs_in_bfloat16(examples):
    half = llava(PLANTED, dtype=torch.bfloat16)
    again = questions(half, examples.asked[:8])
    found = rank_visual_heads(half, again, positions="answer", scores=("signed_drop",))
    assert np.isfinite(found.drop).all() and found.provenance["model"]["dtype"] == "bfloat16"


def test_clean_readings_by_hand(model, examples):
    e = examples[0]
    asked = replace(e, options=("yes", "no"), gold="yes")
    prompt = replace(e.prompt, gold="yes", answers={"yes": e.prompt.answers["yes"], "no": e.prompt.answers["no"]})
    found = visual_scan.read_clean(model, [VisualExample(**{**vars(asked), "prompt": prompt})])
    logits = model.final_logits([prompt])[0]
    (yes,), (no,) = prompt.answers["yes"], prompt.answers["no"]
    assert found["gold_prob"][0] == pytest.approx(float(logits.softmax(-1)[yes]), rel=1e-4)
    assert found["option_prob"][0] == pytest.approx(float(logits[[yes, no]].softmax(0)[0]), rel=1e-4)
    assert found["option_correct"][0] == float(logits[yes] > logits[no])
    assert found["yes_margin"][0] == pytest.approx(float(logits[yes] - logits[no]), abs=1e-4)
    assert found["top_token"][0] == int(logits.argmax()) and found["length"][0] == len(prompt)


# What follows from the numbers


def test_a_score_is_half_the_size_of_changes_plus_half_their_mean():
    heads = simulated(n_pictures=20)
    for score in ("s_plus", "s_minus"):
        frame = heads.table(score, "object")
        np.testing.assert_allclose(frame["score"] - frame["floor"], frame["mean_change"] / 2, atol=1e-7)
        change = heads.change(score, heads.chosen("object", score=score))
        np.testing.assert_allclose(np.maximum(change, 0).mean(0), heads.mean_score(score, "object"), atol=1e-6)


def test_noise_has_a_score_and_no_more_than_its_floor():
    rng = np.random.default_rng(0)
    change = rng.normal(0, 1, (80, 4, 10))
    pictures = [str(i // 2) for i in range(80)]
    frame = score_table(change, change, pictures)
    assert (frame["score"] > 0.2).all() and (frame["score"] > frame["floor_95"]).mean() < 0.2
    assert (frame["q"] > 0.05).all() and frame["score"].max() < largest_by_chance(change, pictures) * 1.05


def test_pictures_are_flipped_whole():
    x = np.array([[1.0], [2.0], [-4.0]])
    np.testing.assert_array_equal(group_sums(x, ["a", "b", "a"]), [[-3.0], [2.0]])
    rng = np.random.default_rng(1)
    each = rng.normal(0.3, 1, (40, 1, 1))
    four = np.repeat(each, 4, axis=0)  # the same picture asked four times tells no more
    alone = score_table(each, each, [str(i) for i in range(40)]).iloc[0]
    asked = score_table(four, four, [str(i // 4) for i in range(160)]).iloc[0]
    assert asked.p == pytest.approx(alone.p, abs=0.02) and asked.score == pytest.approx(alone.score)
    naive = score_table(four, four, [str(i) for i in range(160)]).iloc[0]
    assert naive.p < asked.p / 2
    assert asked.score_high - asked.score_low == pytest.approx(alone.score_high - alone.score_low, rel=0.1)


def test_a_yes_head_is_told_from_a_head_that_sees():
    heads = simulated(yes_head=0.3)
    says_yes = heads.n_layers * heads.n_heads - 7
    label = "L{}H{}".format(*divmod(says_yes, heads.n_heads))
    frame = gold_table(heads, "s_plus", "object", 7).set_index("label")
    assert frame.index[0] == label  # by S+ alone it is the first of the positive heads
    assert frame.loc[label, "verdict"] == "say yes" and frame.loc[label, "yes_push_low"] > 2
    assert frame.loc[label, "score_yes"] > 0.2 > 0.05 > frame.loc[label, "score_no"]
    assert (frame["verdict"] == "help with both").sum() >= 4
    said = heads.to_findings().statement
    assert any("1 say yes" in sentence for sentence in said)


def test_the_figure_shows_the_question_that_a_head_matters_to_most():
    heads = simulated(n_pictures=5)
    heat = heads.to_findings().figures["S+ of each head, by level"].data[0]
    ((layer, head),), chosen = heads.top("s_plus", 1, "object"), heads.chosen("object", score="s_plus")
    best = heads.asked[np.flatnonzero(chosen)[heads.drop[chosen, layer, head].argmax()]]
    assert heat.customdata[layer][head].startswith(f"most extreme: <i>{best.question_text} {best.gold}</i>  +")


def test_rankings_test_the_mean_change_and_not_what_cannot_be_below_zero(tmp_path):
    heads = simulated(n_pictures=15, own=0.0)
    ranking = heads.ranking("s_plus", "object")
    assert ranking.tested == "mean_change" and (ranking.scores >= 0).all()
    p = ranking.by("mean_change").to_frame().set_index("label")["p"]
    frame = ranking.to_frame().set_index("label")
    np.testing.assert_allclose(frame["p"].sort_index(), p.sort_index())
    assert (frame["q"] > 0.05).all() and (frame["ci_low"] > 0).all()
    ranking.save(tmp_path / "r")
    again = load_ranking(tmp_path / "r")
    assert again.tested == "mean_change" and again.to_frame().equals(ranking.to_frame())
    page = (tmp_path / "r" / "report.html").read_text()
    assert "By mean_change, which p and q test because s_plus can" in page
    assert again.provenance["group"] == {
        "score": "s_plus",
        "level": "object",
        "kind": None,
        "gold": None,
        "n": len(again.example_ids),
    }
    with pytest.raises(ValueError, match=r"tested_by names \['gone'\]; expected names of measures"):
        replace(ranking, tested_by={"s_plus": "gone"})


def test_levels_kinds_and_golds_are_apart():
    heads = simulated(n_pictures=10)
    every = heads.chosen()
    assert every.sum() == 120 and sum(heads.chosen(level).sum() for level in LEVELS) == 120
    assert heads.chosen("object", "yes_no", "Yes").sum() == heads.chosen("object", "yes_no", "no").sum() == 10
    assert heads.chosen(score="s_plus").sum() + heads.chosen(score="s_minus").sum() == 120
    assert {heads.ranking("s_plus", lv).provenance["run_id"] for lv in (None, *LEVELS)}.__len__() == 4
    with pytest.raises(ValueError, match="level='colour'; the questions have 'object', 'attribute', 'relationship'"):
        heads.chosen("colour")
    with pytest.raises(ValueError, match="score='plus'; expected one of s_plus"):
        heads.chosen(score="plus")
    with pytest.raises(ValueError, match="k=0; expected 1 to 30"):
        heads.top("s_plus", 0)


def test_counts_flag_small_groups():
    heads = simulated(n_pictures=10)
    counts = heads.counts().set_index(["level", "kind"])
    row = counts.loc[("object", "yes_no")]
    assert (row.n, row.n_pictures, row.gold_yes) == (20, 10, 0.5)
    assert row.n_correct + row.n_wrong == 20 and row.flag == f"few: {row.n_wrong} wrong"
    assert counts.loc[("object", "both"), "n"] == 40 and row.accuracy == pytest.approx(row.n_correct / 20)
    assert row.accuracy_low < row.accuracy < row.accuracy_high
    few = replace(heads, is_correct=np.arange(120) < 3)
    assert "Only 3 questions count" in few.ranking("s_plus").provenance["caveats"][0]
    assert any("only 3 questions count, too few" in said for said in few.to_findings().statement)
    none = replace(heads, is_correct=np.zeros(120, bool))
    assert np.isnan(none.mean_score("s_plus")).all()
    with pytest.raises(ValueError, match=r"S\+ of level='object'.* has no question: 0 of 40 are answered correctly"):
        none.ranking("s_plus", "object")
    assert any("no question is answered correctly" in said for said in none.to_findings().statement)


def test_too_few_questions_have_no_order_of_heads():
    heads = simulated(n_pictures=10)
    objects = np.array([q.level == "object" for q in heads.asked])
    few = replace(heads, is_correct=heads.is_correct & (~objects | (np.cumsum(heads.is_correct & objects) <= 9)))
    assert few.chosen("object", score="s_plus").sum() == 9
    found = few.to_findings()
    panels = [a.text for a in found.figures["S+ of each head, by level"].layout.annotations]
    assert len(panels) == 2 and all(p.startswith(("attribute (n = ", "relationship (n = ")) for p in panels)
    assert set(found.tables["Positive heads, S+: the first 20"]["level"]) == {"attribute", "relationship"}
    assert "of object questions not judged (n = 9, too few)" in found.statement[0]
    none = replace(heads, is_correct=np.cumsum(heads.is_correct) <= 9).to_findings()
    assert "S+ of each head, by level" not in none.figures and "Positive heads, S+: the first 20" not in none.tables


def test_no_head_reads_as_not_shown_with_an_interval():
    rng = np.random.default_rng(0)
    heads = simulated(n_pictures=10)
    noise = heads.gold_prob[:, None, None] + rng.normal(0, 0.01, heads.gold_prob_ablated.shape)
    said = replace(heads, gold_prob_ablated=noise.astype(np.float32)).statement()
    assert "of object questions none shown to (n = " in said[0]
    assert re.search(r"no head is shown to differ from no change in the mean \(L\dH\d: \+0.00\d+ \[[+-]0.0", said[1])


# A run


def test_refuses_before_the_scan(model, examples, monkeypatch):
    monkeypatch.setattr(visual_heads, "HeadScan", None)  # it must not be reached
    right, wrong = (
        VisualExamples([q for i, q in enumerate(examples.asked) if i % 2 == r], examples._build) for r in (0, 1)
    )
    with pytest.raises(ValueError, match=r"25 of 25 questions are answered correctly and 0 wrongly; S− is a mean over"):
        rank_visual_heads(model, right)
    with pytest.raises(ValueError, match=r"0 of 25 questions.*S\+ is.*Ask easier.*scores=\('s_minus', 'signed_drop'\)"):
        rank_visual_heads(model, wrong)
    with pytest.raises(ValueError, match="ablation='delete'; expected one of mean_of_others, zero, mean"):
        rank_visual_heads(model, right, ablation="delete")
    with pytest.raises(ValueError, match=r"scores=.*expected some of s_plus"):
        rank_visual_heads(model, right, scores=("best",))
    with pytest.raises(ValueError, match="no questions were given"):
        rank_visual_heads(model, [])


def test_a_score_that_is_not_asked_for_needs_no_questions(model, examples):
    right = VisualExamples([replace(q, level="object") for q in examples.asked[:20:2]], examples._build)
    found = rank_visual_heads(model, right, scores=("s_plus",), positions="answer")
    assert found.is_correct.all() and list(found.to_findings().tables)[1] == "Positive heads, S+: the first 20"


def test_a_killed_run_goes_on_and_a_finished_one_is_read(model, examples, tmp_path, monkeypatch):
    few, said, scanned = examples[20:30], [], []
    settings, out = {"positions": "answer", "batch_size": 2}, tmp_path / "run"
    original = visual_scan.HeadScan.__call__

    def dies(self, batch, fails=True):
        scanned.append([e.id for e in batch])
        if fails and len(scanned) == 6:
            raise KeyboardInterrupt
        return original(self, batch)

    monkeypatch.setattr(visual_scan.HeadScan, "__call__", dies)
    with pytest.raises(KeyboardInterrupt):
        rank_visual_heads(model, few, say=said.append, **settings, keep=out)
    assert len(said) == 1 and re.fullmatch(
        r"10 questions unedited, [\d.e-]+ s each; 10 questions x 16 heads at positions 'answer' by the fan-out, "
        r"[\d.e-]+ s a question: about \d+ s in all",
        said[0],
    )
    with pytest.raises(FileExistsError, match="unfinished run with other settings"):
        rank_visual_heads(model, few, **settings | {"positions": "all"}, keep=Keep(out, resume=True))
    scanned.clear()
    monkeypatch.setattr(visual_scan.HeadScan, "__call__", lambda self, batch: dies(self, batch, fails=False))
    found = rank_visual_heads(model, few, say=said.append, **settings, keep=Keep(out, resume=True))
    assert said[1].startswith("4 questions x 16 heads") and len(scanned) == 2 + 2  # two to estimate, two batches left
    plain = rank_visual_heads(model, few, positions="answer", batch_size=2)
    np.testing.assert_array_equal(found.gold_prob_ablated, plain.gold_prob_ablated)
    assert found.provenance["run_id"] == plain.provenance["run_id"]
    monkeypatch.setattr(visual_scan.HeadScan, "__call__", None)
    again = rank_visual_heads(model, few, say=said.append, **settings, keep=Keep(out, resume=True))
    assert again.asked == found.asked and len(said) == 2
    for name in ("gold_prob", "gold_prob_ablated", "yes_margin_ablated", "option_prob", "is_correct"):
        np.testing.assert_array_equal(getattr(again, name), getattr(found, name))
    assert not (tmp_path / "run" / "parts").exists()


def test_the_time_is_told_before_the_unedited_answers(model, examples, monkeypatch):
    said = []
    monkeypatch.setattr(visual_heads, "clean_answers", lambda *_: pytest.fail(f"after: {said}"))
    with pytest.raises(pytest.fail.Exception, match=r"after: \[\"3 questions unedited, .*; 3 questions x 16 heads"):
        rank_visual_heads(model, examples[:3], positions="answer", ablation="mean", say=said.append)


def test_a_slow_question_is_measured_once(model, examples, monkeypatch):
    monkeypatch.setattr(visual_scan, "_SLOW_S", 0.0)
    tried = []
    assert visual_scan._seconds_each(lambda batch: tried.append(len(batch)), examples) > 0 and tried == [1]


def test_another_wording_is_another_run(model, examples, tmp_path):
    few = {"positions": "answer", "scores": ("signed_drop",)}
    asked = examples.asked[:2]

    def put(**wording) -> VisualExamples:
        return visual_examples(model, asked, lambda q: picture(int(q.image_id)), **wording)

    found = [rank_visual_heads(model, put(**w), **few) for w in ({}, {"instruction": "?"}, {"cases": "as_given"})]
    found.append(rank_visual_heads(model, list(put()), **few))  # prompts that were built already
    assert len({heads.provenance["run_id"] for heads in found}) == 4
    assert rank_visual_heads(model, put(), **few).provenance["run_id"] == found[0].provenance["run_id"]


def test_saved_heads_are_read_back_and_others_refused(heads, tmp_path):
    heads.save(tmp_path / "h")
    again = load_result(tmp_path / "h")
    assert again.asked == heads.asked and again.provenance == json.loads(json.dumps(heads.provenance))
    np.testing.assert_array_equal(again.drop, heads.drop)
    assert again.table("s_plus").equals(heads.table("s_plus"))
    data = json.loads((tmp_path / "h" / "findings.json").read_text())
    assert any(s.startswith("50 questions about") and "25 answered correctly" in s for s in data["statement"])
    assert data["statement"][0] == heads.statement()[0] and repr(heads).endswith(data["statement"][0])
    assert data["statement"][0].startswith("Heads that help (S+) in the mean, at a false discovery rate of 5%: of ")
    from interp.reports.findings import Findings

    Findings("Another study", ["x"], {}, {}, {}).save(tmp_path / "o")
    assert not isinstance(load_result(tmp_path / "o"), VisualHeads)
    with pytest.raises(FileNotFoundError, match="No directory"):
        load_result(tmp_path / "nowhere")


def test_what_others_wrote_is_escaped(tmp_path):
    heads = simulated(n_pictures=5)
    nasty = [replace(q, question_text="<script>alert(1)</script>", level="<b>object</b>") for q in heads.asked]
    replace(heads, asked=tuple(nasty)).save(tmp_path / "h")
    page = (tmp_path / "h" / "report.html").read_text()
    assert "<script>alert" not in page and "<b>object</b>" not in page and "&lt;script&gt;alert(1)" in page


def test_a_picture_that_breaks_on_the_way_stops_the_run_and_scores_nothing(model, tmp_path):
    asked = [Asked(f"q{i}", "Is it blue?", "yes", image_id=str(i)) for i in range(4)]

    def gone(q: Asked):
        return tmp_path / "gone.png" if q.id == "q2" else picture(int(q.image_id))

    broken = visual_examples(model, asked, gone)
    with pytest.raises(FileNotFoundError, match=r"gone\.png: no such image file"):
        rank_visual_heads(model, broken, scores=("signed_drop",))


def test_a_picture_is_encoded_once_for_all_its_questions(model, monkeypatch):
    asked = [Asked(f"q{i}", f"Is it {w}?", "yes", image_id="7") for i, w in enumerate(("red", "blue", "green"))]
    calls = []
    tower = model.hf.model.vision_tower
    handle = tower.register_forward_hook(lambda *a: calls.append(1))
    handle.remove()  # a hook of ours would switch the memory off: count by replacing forward
    original = tower.forward
    monkeypatch.setattr(tower, "forward", lambda *a, **k: (calls.append(1), original(*a, **k))[1])
    model.forget_images()
    rank_visual_heads(model, questions(model, asked), scores=("signed_drop",), batch_size=1)
    assert len(calls) == 1


def test_questions_without_a_prompt_of_pictures_are_refused(model):
    text_only = Prompt.from_token_ids([5, 6, 7], answers={"yes": [3], "no": [4]}, gold="yes", id="t")
    bare = VisualExample("t", "Is it?", "yes", prompt=text_only)
    with pytest.raises(ValueError, match="has no image"):
        rank_visual_heads(model, [bare], scores=("signed_drop",))

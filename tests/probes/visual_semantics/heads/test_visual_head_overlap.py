"""Are heads shared within a level and between levels? Simulated ones that are or are not; sets of heads ablated."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

import interp
from interp.records.keep import Keep
from interp.reports.result import load_result
from interp.statistics import Estimate
from probes.visual_semantics.heads import ablation as visual_set_ablation
from probes.visual_semantics.heads.ablation import cross_level_ablation, plan_sets
from probes.visual_semantics.heads.ablation_result import SetAblation, SetCase
from probes.visual_semantics.heads.claims import LevelClaim, claims_frame, claims_of
from probes.visual_semantics.heads.heads import rank_visual_heads
from probes.visual_semantics.heads.levels import overlaps_of, study_levels
from probes.visual_semantics.heads.levels_result import LevelStudy
from probes.visual_semantics.heads.overlap import ACROSS, head_overlap
from probes.visual_semantics.questions.prompts import VisualExamples
from tests.probes.visual_tiny import LEVELS, PLANTED, answered, llava, simulated

FEW = {"n_halves": 60, "n_permutations": 199}


def test_heads_of_a_level_are_told_from_heads_of_all():
    heads = simulated()
    own = head_overlap(heads, "s_plus", k=6, **FEW)
    for across in ACROSS:
        of_heads, of_all = own.contrasts[across, "overlap"], own.contrasts[across, "spearman"]
        assert of_heads.within.value > 5 > 3 > of_heads.between.value and of_heads.n_levels == 3
        assert of_heads.within_p < 0.01 < of_heads.between_p
        for contrast in (of_heads, of_all):
            assert contrast.difference.low > 0 and contrast.p <= 0.05
            assert contrast.difference.value == pytest.approx(contrast.within.value - contrast.between.value)
    general = head_overlap(heads, "s_minus", k=6, **FEW)
    for across in ACROSS:
        assert general.contrasts[across, "overlap"].between.low > general.expected == pytest.approx(36 / 30)
        assert general.contrasts[across, "overlap"].between_p < 0.01
        assert general.contrasts[across, "spearman"].difference.low < 0.05


def test_heads_without_a_level_show_none():
    none = head_overlap(simulated(own=0.0, seed=1), "s_plus", k=6, by="mean_change", **FEW)
    for contrast in none.contrasts.values():
        assert contrast.difference.low < 0 < contrast.difference.high and contrast.p > 0.01
    shared = head_overlap(simulated(shared=1.0), "s_plus", k=6, **FEW)
    for across in ACROSS:
        assert shared.contrasts[across, "overlap"].between.low > shared.expected
        assert shared.contrasts[across, "overlap"].difference.low <= 0


def test_pairs_by_hand():
    heads = simulated(n_pictures=30)
    overlap = head_overlap(heads, "s_plus", k=5, n_halves=20, n_permutations=19)
    assert len(overlap.groups) == 6 and len(overlap.pairs) == 15
    row = overlap.pairs.set_index(["a", "b"]).loc[("object, yes/no", "object, open")]
    a, b = heads.top("s_plus", 5, "object", "yes_no"), heads.top("s_plus", 5, "object", "open")
    assert row.overlap == len(set(a) & set(b)) and row.relation == "within a level" and not row.same_kind
    from scipy.stats import spearmanr

    means = (heads.mean_score("s_plus", "object", kind).ravel() for kind in ("yes_no", "open"))
    assert row.spearman == pytest.approx(spearmanr(*means).statistic, abs=1e-6)
    assert row.overlap_expected == pytest.approx(25 / 30) and 0 <= row.overlap_low <= row.overlap <= row.overlap_high
    assert row.ceiling == pytest.approx(math.sqrt(row.reliability_a * row.reliability_b))
    assert (overlap.pairs["relation"] == "within a level").sum() == 3
    assert overlap.plot().data[0].z[0][1] == row.overlap
    assert len(overlap.to_frame()) == 4 and set(overlap.to_frame()["statistic"]) == {"spearman", "overlap"}


def test_the_same_heads_agree_entirely_and_the_ceiling_is_reached():
    heads = simulated(n_pictures=30, shared=1.0, noise=0.001)
    pairs = head_overlap(heads, "s_plus", k=6, n_halves=20, n_permutations=0).pairs
    assert (pairs["overlap"] == 6).all() and (pairs["overlap_p"] < 1e-5).all()
    assert np.isnan(head_overlap(heads, "s_plus", k=6, n_halves=20, n_permutations=0).contrasts[ACROSS[0], "overlap"].p)


def test_small_groups_are_left_out_and_named():
    heads = simulated(n_pictures=30)
    few = np.array([q.level == "object" and q.kind == "open" for q in heads.asked])
    heads = replace(heads, is_correct=heads.is_correct & (~few | (np.arange(len(few)) < 40)))
    overlap = head_overlap(heads, "s_plus", k=5, n_halves=10, n_permutations=0)
    ((name, n),) = overlap.left_out.items()
    assert name == "object, open" and n < 10 and len(overlap.groups) == 5
    assert overlap.contrasts[ACROSS[0], "overlap"].n_levels == 2
    one_kind = replace(heads, asked=tuple(replace(q, kind="open", form="") for q in heads.asked))
    alone = head_overlap(one_kind, "s_plus", k=5, n_halves=10, n_permutations=0)
    assert not alone.contrasts and len(alone.pairs) == 3  # nothing to compare a level with itself by
    with pytest.raises(ValueError, match=r"1 groups of questions .*a comparison needs two"):
        head_overlap(replace(one_kind, asked=tuple(replace(q, level="x") for q in one_kind.asked)), "s_plus", k=5)
    with pytest.raises(ValueError, match="k=31; expected 1 to 30"):
        head_overlap(heads, "s_plus", k=31)
    with pytest.raises(ValueError, match="by='rank'; expected 'score' or 'mean_change'"):
        head_overlap(heads, by="rank")


# Sets of heads, ablated


def simulated_ablation(own: float, cross: float, n: int = 40, seed: int = 0) -> SetAblation:
    """Ablating a level's positive heads changes p by `own` on its questions and by `cross` on others; random sets by
    noise. Negative heads: +0.1 everywhere."""
    rng = np.random.default_rng(seed)
    heads = simulated(n_pictures=n)
    cases = [
        SetCase(score, level, "zero", which, draw, ((0, draw),))
        for score in ("s_plus", "s_minus")
        for level in LEVELS
        for which, draw in [("top", 0), *[("random", i) for i in range(19)]]
    ]
    levels = np.array([q.level for q in heads.asked])
    p = np.full(len(levels), 0.5, dtype=np.float32)
    edited = np.stack([p + rng.normal(0, 0.02, len(p)) for _ in cases], 1)
    for i, case in enumerate(cases):
        if case.set == "top" and case.score == "s_plus":
            edited[:, i] += np.where(levels == case.source, own, cross)
        elif case.set == "top":
            edited[:, i] += 0.1
    right = rng.random(len(p)) < 0.7
    after = (np.where(right, 1.0, 0.0)[:, None] + (edited - 0.5) > 0.85).astype(np.float64)
    provenance = {"title": "Sets", "caveats": [], "model": {"name": "simulation"}}
    return SetAblation(tuple(cases), heads.asked, p, right, edited, after, provenance)


def test_contrasts_by_hand():
    ablation = simulated_ablation(own=-0.2, cross=-0.05)
    own, p = ablation.contrast("s_plus", "zero", "gold_prob", "own")
    assert own.low < -0.2 + 0.01 and own.value == pytest.approx(-0.2, abs=0.01) and p == 0.05
    cross, _ = ablation.contrast("s_plus", "zero", "gold_prob", "cross")
    assert cross.value == pytest.approx(-0.05, abs=0.01)
    less, _ = ablation.contrast("s_plus", "zero", "gold_prob", "own less cross")
    change = ablation.change("gold_prob")
    by_hand = [
        change[ablation.levels == t, ablation.columns("s_plus", t, "zero", "top")[0]].mean()
        - np.mean(
            [
                change[ablation.levels == t, ablation.columns("s_plus", s, "zero", "top")[0]].mean()
                for s in LEVELS
                if s != t
            ]
        )
        for t in LEVELS
    ]
    assert less.value == pytest.approx(np.mean(by_hand)) and less.low < less.value < less.high
    frame = ablation.to_frame()
    assert len(frame) == 2 * 3 * 3 * 3
    row = frame[(frame.source == "object") & (frame.target == "attribute") & (frame.subset == "wrong")].iloc[0]
    assert row.n == ((ablation.levels == "attribute") & ~ablation.is_correct).sum() and row.accuracy == 0
    assert row.delta_gold_prob == pytest.approx(-0.05, abs=0.02) and row.n_random == 19
    assert row.delta_gold_prob_low < row.delta_gold_prob < row.delta_gold_prob_high
    assert row.more_gold_prob == pytest.approx(row.delta_gold_prob - row.random_gold_prob)


def test_claims_follow_the_numbers():
    heads = simulated()
    overlaps, untold = overlaps_of(heads, ("s_plus", "s_minus"), 6, **FEW)
    shown = claims_frame(claims_of(overlaps, simulated_ablation(own=-0.3, cross=0.0)))
    paper = shown[shown["by"] == "V-SEAM"]
    about = paper[~paper["number"].str.contains("accuracy") & ~paper["number"].str.contains("wrongly")]
    assert not untold and set(about["verdict"]) == {"shown"}
    against = claims_frame(claims_of([], simulated_ablation(own=0.0, cross=-0.3)))
    verdicts = against.set_index(["claim", "number"])["verdict"]
    (own,) = [v for (c, n), v in verdicts.items() if c.startswith("Positive heads matter more") and "prob" in n]
    assert own == "reversed"
    (harm,) = [v for (c, n), v in verdicts.items() if c.startswith("Ablating positive heads") and "prob" in n]
    assert harm == "not shown"


def test_verdicts_by_hand():
    def claim(
        low: float, high: float, p: float = float("nan"), claimed: str = "above", finest: float = 0.0
    ) -> LevelClaim:
        return LevelClaim(
            "A", "V-SEAM", "Of the first, share", Estimate((low + high) / 2, low, high), 1.0, claimed, p, finest
        )

    assert claim(1.1, 2).verdict == "shown" and claim(0.9, 2).verdict == "not shown"
    assert claim(0.1, 0.9).verdict == "reversed" and claim(0.1, 0.9, claimed="below").verdict == "shown"
    assert claim(1.1, 2, p=0.2).verdict == "not shown"  # random sets do as much
    few = claim(1.1, 2, p=1 / 11, finest=1 / 11)  # more than each of only ten
    assert few.verdict == "not shown" and "p = 0.091 (too few random sets to tell)" in few.sentence()
    assert replace(claim(0.1, 0.9, p=0.2), two_sided=True).verdict == "not shown"
    assert claim(math.nan, 2).verdict == "not tested"
    assert claim(1.1, 2).sentence() == "A (V-SEAM): shown. Of the first, share: 1.6 [1.1, 2.0], against 1.0 by chance."
    assert "not tested, too few questions" in claim(math.nan, 2).sentence()


@pytest.fixture(scope="module")
def model() -> interp.Model:
    return llava(PLANTED)


@pytest.fixture(scope="module")
def examples(model) -> VisualExamples:
    return answered(model, 15)


@pytest.fixture(scope="module")
def heads(model, examples):
    return rank_visual_heads(model, examples[:18], positions="answer")


def test_sets_are_ablated_as_a_plain_loop_does(model, examples, heads):
    others = examples[18:22]
    found = cross_level_ablation(model, heads, others, k=2, n_random=2, positions="all", batch_size=3)
    prompts = [e.prompt for e in others]
    from interp.interventions.values import Branch, HeadEdit
    from interp.reading.metrics import Probability

    for i in range(0, len(found.cases), 5):
        case = found.cases[i]
        branch = Branch(tuple(HeadEdit(*head, case.edit) for head in case.heads))
        slow = interp.scan(model, prompts, [branch], metric=Probability("gold"), positions="all", method="loop")
        np.testing.assert_allclose(found.gold_prob_edited[:, i], slow.values[:, 0], atol=1e-5)
        np.testing.assert_allclose(found.gold_prob, slow.clean, atol=1e-5)
    assert found.is_correct.tolist() == [True, False, True, False]
    assert set(np.unique(found.is_correct_edited)) <= {0.0, 1.0}
    top = [c for c in found.cases if c.set == "top"]
    assert {c.source for c in top} == set(LEVELS) and all(len(c.heads) == 2 for c in top)
    assert all(PLANTED in c.heads for c in top if c.score == "s_minus")


def test_random_sets_have_the_layers_of_the_top(model, examples, heads):
    others = examples[18:20]
    cases = plan_sets(model, heads, others, 2, ("s_plus",), ("zero",), 4, seed=0)
    for level in LEVELS:
        (top,) = [c for c in cases if c.source == level and c.set == "top"]
        random = [c for c in cases if c.source == level and c.set == "random"]
        assert 1 <= len(random) <= 4 and len({c.heads for c in random}) == len(random)
        for case in random:
            assert [layer for layer, _ in case.heads] == [layer for layer, _ in top.heads]
            assert case.heads != top.heads
    assert plan_sets(model, heads, others, 2, ("s_plus",), ("zero",), 4, seed=0) == cases


def test_what_is_refused(model, examples, heads):
    with pytest.raises(ValueError, match=r"2 of 4 questions made the ranking .*give others"):
        cross_level_ablation(model, heads, examples[16:20], k=2)
    others = examples[18:20]
    with pytest.raises(ValueError, match="k=17; expected 1 to 16"):
        cross_level_ablation(model, heads, others, k=17)
    with pytest.raises(ValueError, match="edit 'mean'; expected 'zero' or 'mean_of_others'"):
        cross_level_ablation(model, heads, others, k=2, edits=["mean"])
    with pytest.raises(ValueError, match="the ranking is of 5 layers with 6 heads"):
        cross_level_ablation(model, simulated(n_pictures=2), others, k=2)
    with pytest.raises(ValueError, match=r"with weights .* Rank the heads of this model"):
        cross_level_ablation(llava(PLANTED, scale=3.0), heads, others, k=2)
    strange = VisualExamples([replace(q, level="colour") for q in others.asked], others._build)
    with pytest.raises(ValueError, match=r"level 'colour' were given; the ranking has \['object'"):
        cross_level_ablation(model, heads, strange, k=2)


def test_the_study_goes_on_where_it_was_killed(model, examples, heads, tmp_path, monkeypatch):
    others, said = examples[18:26], []
    settings = {"k": 2, "n_random": 1, "edits": ["zero"], "positions": "answer", "batch_size": 2}
    out = tmp_path / "s"
    original, calls = visual_set_ablation.scan_readings, []

    def dies(*arguments, **options):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return original(*arguments, **options)

    monkeypatch.setattr(visual_set_ablation, "scan_readings", dies)
    with pytest.raises(KeyboardInterrupt):
        study_levels(model, heads, others, say=said.append, **settings, keep=out)
    assert said[0].startswith("8 questions unedited, ") and "; 8 questions x 6 sets of heads by the fan-out" in said[0]
    calls.clear()
    found = study_levels(model, heads, others, **settings, keep=Keep(out, resume=True))
    assert len(calls) == 2  # batches left of four
    assert any("Overlaps by S+ are not known: " in sentence for sentence in found.statement())  # 3 right ones a level
    assert list(found.to_findings().tables)[:2] == ["Verdicts", "Claims"] and not (tmp_path / "s" / "parts").exists()
    monkeypatch.setattr(visual_set_ablation, "scan_readings", None)
    again = study_levels(model, heads, others, **settings, keep=Keep(out, resume=True))
    assert again.statement() == found.statement() == load_result(out).statement()
    assert again.ablation.cases == found.ablation.cases and again.ablation.asked == found.ablation.asked
    with pytest.raises(FileExistsError, match="already holds the report"):
        study_levels(model, heads, others, **settings | {"k": 3}, keep=out)


def test_the_report_of_levels(tmp_path):
    heads = simulated(n_pictures=30)
    overlaps, _ = overlaps_of(heads, ("s_plus",), 6, 20, 19)
    ablation = simulated_ablation(own=-0.3, cross=0.0, n=20)
    study = LevelStudy(tuple(overlaps), ablation, (), 360, ablation.provenance)
    page = (study.save(tmp_path / "r") / "report.html").read_text()
    found = study.to_findings()
    assert "Positive heads are shared within a level (V-SEAM): shown." in page
    assert set(found.tables) >= {"Claims", "Within and between levels", "Sets of heads", "Sets ablated on every level"}
    assert len(found.figures) == 4 and "S+, by score: shared heads" in found.figures
    assert study.statement()[0].startswith("Positive heads are shared within a level (V-SEAM): shown.")
    again = load_result(tmp_path / "r")
    assert again.statement() == study.statement() and again.overlaps[0].groups == overlaps[0].groups
    assert again.overlaps[0].contrasts == overlaps[0].contrasts


def test_an_overlap_and_an_ablation_are_saved_by_themselves(tmp_path):
    overlap, ablation = (
        head_overlap(simulated(n_pictures=20), k=6, n_halves=10, n_permutations=19),
        simulated_ablation(own=-0.3, cross=0.0, n=20),
    )
    for name, result in (("o", overlap), ("a", ablation)):
        again = load_result(result.save(tmp_path / name))
        assert again.statement() == result.statement() and again.to_frame().equals(result.to_frame())
        assert repr(result) == f"{type(result).__name__}: {result.statement()[0]}"
    assert "questions." in overlap.statement()[0] and "; n = " in overlap.statement()[0]


def test_too_few_questions_are_no_evidence_however_clear():
    """Of four questions a level, all answered worse."""
    few = simulated_ablation(own=-0.3, cross=0.0, n=2)
    keep = np.concatenate([np.flatnonzero(few.levels == level)[:4] for level in LEVELS])
    few = SetAblation(
        few.cases,
        tuple(few.asked[i] for i in keep),
        few.gold_prob[keep],
        few.is_correct[keep],
        few.gold_prob_edited[keep],
        few.is_correct_edited[keep],
        few.provenance,
    )
    assert {c.verdict for c in claims_of([], few)} == {"not tested"}
    frame = few.to_frame()
    assert frame["too_few"].all() and frame[["delta_gold_prob_low", "p_gold_prob", "random_accuracy_low"]].isna().all(
        axis=None
    )
    assert np.isfinite(frame["delta_gold_prob"]).all() and not few.to_findings().figures
    assert "not tested, too few questions" in few.statement()[0]


def test_nothing_found_reads_as_not_shown_to_differ():
    ablation = simulated_ablation(own=0.0, cross=0.0)
    (said,) = [s for s in ablation.statement() if s.startswith("Positive heads matter")]
    assert "(V-SEAM): not shown to differ from chance. " in said and "[-0." in said and "; n = " in said
    unchanged, _ = ablation.contrast("s_plus", "zero", "accuracy", "own less cross")
    assert unchanged.value == 0 and unchanged.low < -0.001 and unchanged.high > 0.001  # 480 questions, none changed

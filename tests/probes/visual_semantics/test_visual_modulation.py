"""Modulation of visual heads: a planted harmful head, a case without any gain, leaks, levels, killed runs, bfloat16."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import interp
from interp.fitting.factors import changed_heads
from probes.cli.modulation_sources import _divided_items, read_material
from probes.modulation.candidates import ModulationSettings
from probes.modulation.work import ModulationWork
from probes.visual_semantics.heads.heads import rank_visual_heads
from probes.visual_semantics.heads.result import VisualHeads
from probes.visual_semantics.modulation import modulate, scores_of, visual_items
from probes.visual_semantics.questions.prompts import VisualExamples
from tests.probes.modulation_tiny import HARMFUL, LEVELS, harm, llava, pictured
from tests.probes.visual_tiny import simulated

SEARCHED = ModulationSettings(
    largest=(0.5,), ks=(2,), up_down=((1.5, 0.5),), searches=("coordinate",), heads=16, rounds=1, values=(0.0,),
    n_random=4, held_back=0.3,
)  # fmt: skip
PLANNED = replace(SEARCHED, rules=("released", "top-k"), n_random=2)


class Study:
    """A model with a planted harmful head, three sets of questions, and a ranking made on the first."""

    def __init__(self, dtype: torch.dtype = torch.float32, sizes: tuple[int, int, int] = (40, 40, 64)) -> None:
        self.model = llava(dtype)
        self.fit, self.validation, self.test = (pictured(self.model, n, s) for s, n in enumerate(sizes, start=1))
        harm(self.model, 20)
        self.heads: VisualHeads = rank_visual_heads(self.model, self.fit, positions="text", batch_size=8)

    def modulate(self, **given):
        return modulate(self.model, self.heads, self.fit, self.validation, {"test": self.test}, **given)


def said_but_of_mass(found) -> list[str]:
    """The sentences less the one of the answers' mass, which a tiny random model earns."""
    said = found.statement()
    assert "hold only" in said[1]
    return [said[0], *said[2:]]


@pytest.fixture(scope="module")
def study() -> Study:
    return Study()


def test_a_planted_harmful_head_is_turned_down_and_held_out_accuracy_rises(study, tmp_path):
    found = study.modulate(settings=SEARCHED, out=tmp_path / "report", batch_size=32)
    assert found.best("all", found.chosen["all"]).factors[HARMFUL] == 0
    frame = found.to_frame()
    row = frame.query("measure == 'accuracy'").iloc[0]
    assert row["verdict"] == "meets the target" and row["change"] > 0.2
    assert row["more_than_random_low"] > 0 and np.isfinite(row["more_than_offset"])
    assert set(frame["level"]) == {"all", *LEVELS} and set(frame["kind"]) == {"both", "yes_no", "open"}
    assert set(frame.query("kind == 'yes_no'")["measure"]) == {"accuracy", "gold_prob", "option_accuracy", "says_yes"}
    said = said_but_of_mass(found)
    assert "it helps" in said[0] and ("a constant for each answer does" in said[0]) == (
        row["more_than_offset_low"] <= 0
    )
    assert "is met at" in said[1] and "of 3 levels" in said[1] and "random heads" in said[2]
    assert "yes is said to" in said[3]
    conditions = found.conditions()
    assert {"unmodulated", "released rule, λ = 1", "rule", "top-k", "search", "random heads", "constant offset"} == set(
        conditions["condition"]
    )
    with found.edit.apply(study.model):
        prompts = [e.prompt for e in study.test]
        tokens = study.model.final_logits(prompts, batch_size=16).argmax(-1).tolist()
    right = [t in p.answer_tokens("gold") for t, p in zip(tokens, prompts, strict=True)]
    assert np.mean(right) == pytest.approx(row["after"])
    page = (tmp_path / "report" / "report.html").read_text()
    assert "Before and after" in page and "Candidates on validation" in page and "Chosen factors" in page
    assert interp.load_result(tmp_path / "report").statement() == found.statement()
    with pytest.raises(FileExistsError):
        study.modulate(settings=PLANNED, out=tmp_path / "report")


def test_where_nothing_can_be_gained_the_verdict_says_so(study):
    """Gold answers drawn by a coin: no factors know them."""

    def by_coin(examples: VisualExamples, seed: int) -> VisualExamples:
        rng = np.random.default_rng(seed)
        asked = [replace(q, gold=str(rng.choice(q.options))) for q in examples.asked]
        return VisualExamples(asked, examples._build)

    sets = [by_coin(e, i) for i, e in enumerate((study.fit, study.validation, study.test))]
    heads = rank_visual_heads(study.model, sets[0], positions="answer", scores=("signed_drop",), batch_size=8)
    found = modulate(
        study.model,
        heads,
        sets[0],
        sets[1],
        {"test": sets[2], "again": sets[2][:20]},
        settings=replace(SEARCHED, target=0.3),  # which so few questions can exclude
        batch_size=32,
    )
    row = found.to_frame().query("measure == 'accuracy'").iloc[0]
    assert row["verdict"] == "does not help"
    said = said_but_of_mass(found)
    assert said[0].endswith("it is not shown to help, and a gain of 30 points is excluded.")
    assert "is met at 0 of 3 levels" in said[1]
    assert said[0].startswith("On test") and any(s.startswith("On again") for s in said)


def test_each_level_gets_a_modulation_of_its_own(study, tmp_path):
    settings = replace(PLANNED, rules=("top-k",))
    found = study.modulate(settings=settings, each_level=True, out=tmp_path / "report", batch_size=32)
    assert set(found.chosen) == set(LEVELS) and list(found.chosen) == list(found.edits)
    assert found.validation.groupby("scope")["chosen"].sum().tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="an edit for each of object, "):
        _ = found.edit
    for number, level in enumerate(found.chosen):  # the numbers of a level are those of its own edit
        edit = interp.load_edit(tmp_path / "report" / "edits" / str(number))
        assert edit.factors == changed_heads(found.best(level, "top-k").factors)
        prompts = [e.prompt for e in study.test.where(level=level)]
        with edit.apply(study.model):
            tokens = study.model.final_logits(prompts, batch_size=32).argmax(-1).tolist()
        right = np.mean([t in p.answer_tokens("gold") for t, p in zip(tokens, prompts, strict=True)])
        row = found.to_frame().query(f"measure == 'accuracy' and level == '{level}'").iloc[0]
        assert right == pytest.approx(row["after"])
    again = interp.load_result(tmp_path / "report")
    assert again.statement() == found.statement() and "a modulation for each level" in again.statement()[0]


def test_pictures_in_two_sets_are_refused(study):
    def run(fit, validation, test, heads=study.heads):
        modulate(study.model, heads, fit, validation, {"test": test}, settings=PLANNED)

    picture = study.fit.asked[0].image_id
    n = sum(q.image_id == picture for q in study.fit.asked)
    mixed = VisualExamples((*study.test.asked, replace(study.fit.asked[0], id="another")), study.test._build)
    with pytest.raises(ValueError, match=r"1 questions stand.*another \(test; fit, what made the scores\)"):
        run(study.fit, study.validation, mixed)
    with pytest.raises(ValueError, match=rf"{len(study.fit)} questions stand.*what made the scores"):
        run(study.validation, study.fit, study.test)
    unnamed = replace(study.fit.asked[0], id="third", image_id="elsewhere", image_sha256="0")
    with_hash = VisualExamples((*study.test.asked, unnamed), study.test._build)
    known = VisualExamples((*study.fit.asked, replace(unnamed, id="fourth", image_id="here")), study.fit._build)
    with pytest.raises(ValueError, match=r"third \(test; fit\)"):  # the same pixels under another name
        run(known, study.validation, with_hash)
    assert n >= 1


def test_a_killed_run_goes_on(study, tmp_path, monkeypatch):
    settings = replace(SEARCHED, n_random=1)
    whole = study.modulate(settings=settings, batch_size=16)
    out, read, calls = tmp_path / "report", ModulationWork.read, []

    def killed(self, step, *arguments):
        calls.append(step)
        if step == "test-0-0":
            raise KeyboardInterrupt
        return read(self, step, *arguments)

    monkeypatch.setattr(ModulationWork, "read", killed)
    with pytest.raises(KeyboardInterrupt):
        study.modulate(settings=settings, out=out, batch_size=16)
    monkeypatch.undo()
    assert calls == ["fit-0", "validation-0", "test-0-0"]
    assert (out / "parts" / "scope-0" / "search-0" / "found.json").is_file()

    def not_again(*arguments, **named):
        raise AssertionError("what was searched is searched again")

    monkeypatch.setattr("probes.modulation.candidates.coordinate_search", not_again)
    found = study.modulate(settings=settings, out=out, batch_size=16)
    assert found.statement() == whole.statement()
    np.testing.assert_array_equal(found.best("all", "search").factors, whole.best("all", "search").factors)
    assert not (out / "parts").exists()


@pytest.mark.filterwarnings("ignore:in bfloat16 rounding")
def test_bfloat16():
    """A run in half precision from end to end; its unmodulated numbers are those of plain passes."""
    study = Study(torch.bfloat16, (16, 16, 24))  # bfloat16 is slow on CPUs
    found = study.modulate(settings=replace(SEARCHED, n_random=1), batch_size=8)
    prompts = [e.prompt for e in study.test]
    logits = torch.cat([study.model.final_logits([p]) for p in prompts])
    gold = [
        row.log_softmax(-1)[list(p.answer_tokens("gold"))].logsumexp(0).exp()
        for row, p in zip(logits, prompts, strict=True)
    ]
    read = found.tests[0].values("gold_prob")[:, 0]
    assert np.abs(read - np.array(gold)).max() < 0.1 and np.abs(read - np.array(gold)).mean() < 0.02
    row = found.to_frame().query("measure == 'accuracy'").iloc[0]
    assert row["change"] > 0.1


def test_scores_of_levels():
    heads = simulated(n_pictures=10)
    of_all, by_level = scores_of(heads), scores_of(heads, LEVELS)
    np.testing.assert_allclose(of_all["all"].signed, heads.mean_score("signed_drop"))
    np.testing.assert_allclose(by_level["object"].negative, heads.mean_score("s_minus", "object"))
    assert list(by_level) == list(LEVELS)
    rankings = {level: heads.ranking("signed_drop", level) for level in LEVELS}
    np.testing.assert_allclose(scores_of(rankings, LEVELS)["attribute"].signed, by_level["attribute"].signed, atol=1e-6)
    assert scores_of(rankings["object"])["all"].about["high"] == "helps"
    with pytest.raises(ValueError, match=r"Give one ranking, or each_level=True"):
        scores_of(rankings)
    with pytest.raises(ValueError, match="level 'other' has no ranking"):
        scores_of(rankings, ["other"])


def test_prompts_are_built_once_and_no_more_is_kept_than_allowed(study):
    built: list[str] = []

    def build(asked):
        built.append(asked.id)
        return study.fit._build(asked)

    items = visual_items(VisualExamples(study.fit.asked, build))
    assert items.prompts[0] is items.prompts[0] and len(built) == 1
    part = items.at([3, 0])
    assert part.prompts[1] is items.prompts[0] and part.items[0].id == study.fit.asked[3].id
    items.prompts._left_bytes = 0
    assert items.prompts[5] is not items.prompts[5] and len(built) == 3
    assert items.at([0]).described["sha256"] != items.at([1]).described["sha256"]


def test_a_benchmark_is_divided_by_picture(study):
    sets = _divided_items(visual_items(study.fit), frozenset(), 0, None)
    pictures = {name: {i.group for i in s.items} for name, s in sets.items()}
    assert set(sets) == {"fit", "validation", "test"} and sum(map(len, sets.values())) == len(study.fit)
    assert not pictures["fit"] & pictures["test"] and not pictures["validation"] & pictures["test"]
    some = [study.fit.asked[i].id for i in range(10)]
    ranked = _divided_items(visual_items(study.fit), frozenset(some), 0, None)
    assert {study.fit.asked[i].image_id for i in range(10)} == {i.group for i in ranked["fit"].items}
    with pytest.raises(ValueError, match=r"made the ranking: 0 are left for validation, test"):
        _divided_items(visual_items(study.fit), frozenset(q.id for q in study.fit.asked), 0, None)
    few = _divided_items(visual_items(study.fit), frozenset(), 0, 5)
    assert max(map(len, few.values())) == 5


def test_material_of_scenes_is_four_splits():
    material = read_material("scenes:easy:3", seed=2)
    assert list(material.parts) == ["fit", "validation", "test", "out of distribution"] and material.is_visual
    assert [s.content.name for s in material.parts.values()] == ["train", "validation", "test", "ood"]
    assert material.origin()["test"]["source"] == "scenes:test" and not material.more
    further = read_material("scenes:easy:3", ["scenes:ood:hard:2"]).more
    assert list(further) == ["scenes:ood:hard:2"] and len(further["scenes:ood:hard:2"].content) == 2
    with pytest.raises(ValueError, match="expected scenes:DIFFICULTY:N"):
        read_material("scenes:test:easy:3")
    with pytest.raises(ValueError, match="yes/no questions without pictures"):
        read_material("builtin", images=".")

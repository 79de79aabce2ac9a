"""Traces of edited pairs: roles of positions, averages that line up, controls, resume, and what is left out."""

from __future__ import annotations

import random
import re
from dataclasses import replace

import numpy as np
import pytest

import interp
from interp import Keep, load_findings, load_result
from interp.overlays.overlays import read_strongest_maps
from interp.reading.metrics import Probability, metric_values
from interp.reports.findings import render
from interp.scans.traces import Measured, Trace
from probes.pairs.sheet import PicturePair, picture_pair
from probes.scenes.edits import edited_pairs
from probes.scenes.questions import KINDS, LEVELS, ask
from probes.scenes.scenes import sample_scene
from probes.visual_semantics.questions.prompts import visual_examples
from probes.visual_semantics.tracing import prompts as pair_prompts, tracing as visual_tracing
from probes.visual_semantics.tracing.head_traces import HeadTraces
from probes.visual_semantics.tracing.heads import patch_heads
from probes.visual_semantics.tracing.roles import (
    AFTER,
    BEFORE,
    CONCEPT,
    EDITED,
    LAST,
    OTHERS,
    PICTURE,
    ROLES,
    TEMPLATE,
    TEXT,
    concept_word,
    roles_of,
    word_in,
)
from probes.visual_semantics.tracing.sentences import beside_claims, beside_control, peaks_of_parts
from probes.visual_semantics.tracing.tables import LEAST_PAIRS, claim_table, mean_table, peak_table
from probes.visual_semantics.tracing.tracing import trace_pairs
from tests.interp.tiny_vision import picture, tiny_vision


def load(name: str = "llava") -> interp.Model:
    made = tiny_vision(name)
    return interp.load(made.hf, processor=made.processor)


@pytest.fixture(scope="module")
def model() -> interp.Model:
    return load()


@pytest.fixture(scope="module")
def pairs() -> list[PicturePair]:
    drawn = edited_pairs("test", 6, seed=1, difficulty="easy", kind="yes_no", pixels=32)
    return [picture_pair(pair, f"pair-{i}") for i, pair in enumerate(drawn)]


@pytest.fixture(scope="module")
def study(model, pairs):
    return trace_pairs(model, pairs, only_right=False, n_shown=1)


@pytest.fixture(scope="module")
def with_heads(model, pairs):
    return trace_pairs(model, pairs, only_right=False, n_shown=0, parts=["mlp"], layers=[0], heads=True)


def test_every_question_has_its_concept_word():
    rng, seen = random.Random(0), {}
    for _ in range(60):
        scene = sample_scene(rng, "hard")
        for level in LEVELS:
            for kind in KINDS:
                question = ask(scene, rng, level, kind)
                low, high = concept_word(question)
                seen.setdefault(question.form, set()).add(question.text[low:high])
                if question.value:
                    assert question.text[low:high] in question.value
    assert len(seen) >= 12
    assert seen["what_colour"] == {"colour"} and seen["where"] == {"Where"} and seen["what_material"] == {"pattern"}
    assert seen["related"] <= {"left", "right", "above", "below"} and len(seen["related"]) > 2
    assert word_in("Is the redder star red?", "red", last=True) == (19, 22)
    assert word_in("Is it?", "star") is None


def test_every_position_from_the_picture_on_has_one_role(model, pairs):
    prompts = pair_prompts.PairPrompts(model, pairs, _spans(pairs), None, 0)
    for pair in pairs:
        prompt = prompts.twins(pair).after
        low, high = concept_word(pair.edited.question)
        roles = roles_of(model, prompt, pair.question, (low, high), pair.mask)
        assert list(roles) == list(ROLES)
        apart = [p for role, positions in roles.items() if role not in (PICTURE, TEXT) for p in positions]
        assert sorted(apart) == list(range(prompt.span("image")[0], len(prompt)))
        assert roles[PICTURE] == prompt.span("image") and roles[TEXT] == prompt.span("after_image")
        assert roles[EDITED] and roles[OTHERS]
        assert "".join(prompt.tokens[p] for p in roles[CONCEPT]).strip() == pair.question[low:high]
        asked = "".join(prompt.tokens[p] for role in (BEFORE, CONCEPT, AFTER) for p in roles[role])
        assert pair.question in asked
        assert roles[LAST] == (len(prompt) - 1,) and roles[TEMPLATE]
        assert max(roles[BEFORE]) < min(roles[CONCEPT]) and max(roles[CONCEPT]) < min(roles[TEMPLATE])


def test_a_q_former_has_no_patches(pairs):
    made = tiny_vision("instructblip")
    made.processor.tokenizer.chat_template = None  # as Vicuna's
    model = interp.load(made.hf, processor=made.processor)
    pairs = [replace(p, answer_before=p.answer_before.title(), answer_after=p.answer_after.title()) for p in pairs]
    prompts = pair_prompts.PairPrompts(model, pairs, _spans(pairs), None, 0)
    prompt = prompts.twins(pairs[0]).after
    roles = roles_of(model, prompt, pairs[0].question, concept_word(pairs[0].edited.question), pairs[0].mask)
    assert roles[EDITED] == roles[OTHERS] == () and len(roles[PICTURE]) == 5
    found = trace_pairs(model, pairs[:2], only_right=False, n_shown=0, parts=["residual"])
    assert EDITED not in {t for t in found.plot_means().layout.xaxis.ticktext}
    assert np.isnan(found.means().set_index("role").loc[EDITED, "change"]).all()


def test_laws_hold_pair_by_pair(study):
    """The stream at the last token of the last block is the clean run; unrelated pictures bring their own answer."""
    last = study.trace.regions.index(LAST)
    difference = study.trace.clean - study.trace.corrupt
    np.testing.assert_allclose(study.trace.change[:, 2, -1, last], difference, atol=1e-5)
    control = study.control.measured[0]
    np.testing.assert_allclose(control.values[:, 2, -1, last], control.clean, atol=1e-5)
    assert np.abs(control.clean - study.trace.clean).max() > 1e-5
    np.testing.assert_array_equal(study.trace.n_positions[:, last], 1)
    before = study.trace.regions.index(BEFORE)
    attention = study.trace.change[:, 0, -1]  # of the last block: read by nobody but at the last token
    np.testing.assert_allclose(attention[:, before], 0, atol=1e-6)


def test_values_are_those_of_the_prompts(model, pairs, study):
    prompts = pair_prompts.PairPrompts(model, pairs, _spans(pairs), None, 0)
    for i, pair in enumerate(pairs):
        twins = prompts.twins(pair)
        for prompt, value, column in (
            (twins.before, study.trace.clean, "p_before"),
            (twins.after, study.trace.corrupt, "p_after"),
        ):
            expected = metric_values(Probability(), model.final_logits([prompt]), twins.before).item()
            assert value[i] == pytest.approx(expected, abs=1e-6)
            assert study.asked[column][i] == pytest.approx(expected, abs=1e-6)
        assert twins.before.text == twins.after.text == twins.unrelated.text
        hashes = {t.image.sha256 for t in (twins.before, twins.after, twins.unrelated)}
        assert len(hashes) == 3


def test_means_are_plain_means_with_intervals(study):
    means = study.means()
    assert len(means) == 3 * 4 * len(ROLES)
    row = means[(means["part"] == "mlp") & (means["layer"] == 2) & (means["role"] == PICTURE)].iloc[0]
    r = study.trace.regions.index(PICTURE)
    change = study.trace.change[:, 1, 2, r]
    assert row["n"] == 6
    assert row["change"] == pytest.approx(change.mean())
    assert row["change_low"] <= row["change"] <= row["change_high"]
    control = study.control.values[:, 1, 2, r] - study.trace.corrupt
    assert row["control"] == pytest.approx(control.mean())
    assert row["beyond_control"] == pytest.approx((change - control).mean(), abs=1e-7)
    one = study.means(level="object")
    assert set(one["n"]) <= {0, 2}
    with pytest.raises(ValueError, match="expected one of all, object, attribute, relationship"):
        study.means(level="colour")


def planted(n: int = 30, n_layers: int = 32, peaks=None, noise: float = 0.01, seed: int = 0) -> Trace:
    """Changes that peak at given layers, by (part, role)."""
    rng = np.random.default_rng(seed)
    parts, roles = ("attention", "mlp"), (CONCEPT, LAST)
    values = rng.normal(0, noise, (n, 2, n_layers, 2)) + 0.1
    for (part, role), layer in (peaks or {}).items():
        shape = 0.3 * np.exp(-0.5 * ((np.arange(n_layers) - layer) / 2) ** 2)
        values[:, parts.index(part), :, roles.index(role)] += shape
    n_positions = np.ones((n, 2), dtype=int)
    measured = Measured("P(gold)", "probability", values.astype(np.float32), np.full(n, 0.9), np.full(n, 0.1))
    ids = tuple(map(str, range(n)))
    return Trace((measured,), parts, tuple(range(n_layers)), roles, n_positions, ids, 0, "fan-out", "", 0.0)


def test_planted_peaks_are_found_and_set_beside_the_claims():
    found = planted(peaks={("attention", CONCEPT): 10, ("attention", LAST): 28, ("mlp", LAST): 18})
    nothing = planted(seed=1)
    peaks = peak_table(found, nothing, [""] * 30, 32, roles=(CONCEPT, LAST))
    at = peaks.set_index(["part", "role"])
    assert at.loc[("attention", CONCEPT), "layer"] == pytest.approx(10, abs=1)
    assert at.loc[("attention", LAST), "depth"] == pytest.approx(28 / 31, abs=0.04)
    assert at["is_clear"].to_dict()[("mlp", LAST)] and not at["is_clear"].to_dict()[("mlp", CONCEPT)]
    claims = claim_table(peaks, 32)
    said = {(c.claim_on, c.part, c.role): c.verdict for c in claims.itertuples()}
    assert said[("LLaVA 1.5 7B", "attention", CONCEPT)] == "agrees"
    assert said[("LLaVA 1.5 7B", "attention", LAST)] == "elsewhere"
    assert said[("LLaVA 1.5 7B", "mlp", LAST)] == "agrees"
    assert said[("LLaVA 1.5 7B", "mlp", CONCEPT)] == "no clear peak"
    assert len(claims) == 6


@pytest.mark.parametrize(("n", "n_control"), [(2, 2), (4, 4), (30, 4), (30, 0)])
def test_of_too_few_pairs_no_peak_is_clear_however_high(n, n_control):
    """Two values above zero have an interval above zero; that is no evidence."""
    peaks_at = {("attention", CONCEPT): 10, ("attention", LAST): 28, ("mlp", LAST): 18}
    found, nothing = planted(n=n, peaks=peaks_at), planted(n=n, seed=1)
    nothing.measured[0].values[n_control:] = np.nan
    peaks = peak_table(found, nothing, [""] * n, 32, roles=(CONCEPT, LAST))
    assert set(peaks["n_control"]) == {n_control} and set(peaks["n"]) == {n}
    assert not peaks["is_clear"].any()
    claims = claim_table(peaks, 32)
    assert set(claims["verdict"]) == {"too few pairs"} and len(claims) == 6
    (said,) = beside_claims(claims, 32)
    assert said.endswith(f"6 can't be judged by fewer than {LEAST_PAIRS} pairs.")
    assert "in layer" not in "".join(peaks_of_parts(peaks, found.parts))
    means = mean_table(found, nothing, np.ones(n, dtype=bool))
    assert ("too few pairs" if n_control else "No pair has an unrelated picture") in beside_control(means)


def test_five_pairs_are_enough():
    found, nothing = planted(n=LEAST_PAIRS, peaks={("mlp", LAST): 18}), planted(n=LEAST_PAIRS, seed=1)
    peaks = peak_table(found, nothing, [""] * LEAST_PAIRS, 32, roles=(CONCEPT, LAST))
    assert peaks.set_index(["part", "role"]).loc[("mlp", LAST), "is_clear"]
    assert set(claim_table(peaks, 32)["verdict"]) > {"agrees"}
    assert "in layer 18" in "".join(peaks_of_parts(peaks, found.parts))


def test_levels_of_few_pairs_are_not_called_clear(study):
    peaks = study.peaks()
    assert not peaks[peaks["level"] != "all"]["is_clear"].any()  # two pairs each


def test_the_report_has_the_share_of_the_logit_beside_its_change(study):
    """By hand: the mean change of logit(gold) over the mean difference that the edit makes; none of next to nothing."""
    chance, logit = study.trace.measured
    difference = np.full(6, 2.0, dtype=np.float32)
    wide = Measured(logit.name, logit.unit, logit.values, logit.corrupt + difference, logit.corrupt)
    found = replace(study, trace=replace(study.trace, measured=(chance, wide))).to_findings()
    means = found.tables["Means by part, layer and role"]
    np.testing.assert_allclose(means["logit_share"], means["logit_change"] / 2, rtol=1e-5)
    assert (means["logit_share_low"] <= means["logit_share"] + 1e-9).all()
    heat = found.figures["Share of the gold logit recovered"]
    row = means[(means["part"] == "mlp") & (means["layer"] == 2) & (means["role"] == PICTURE)].iloc[0]
    assert heat.data[1].z[2][list(heat.layout.xaxis3.ticktext).index(PICTURE)] == pytest.approx(row["logit_share"])
    close = Measured(logit.name, logit.unit, logit.values, logit.corrupt + 0.2, logit.corrupt)
    nothing = replace(study, trace=replace(study.trace, measured=(chance, close)))
    assert nothing.to_findings().tables["Means by part, layer and role"]["logit_share"].isna().all()
    assert "Share of the gold logit recovered" not in nothing.to_findings().figures
    with pytest.raises(ValueError, match=r"logit\(gold\) differs by less than 0.25 on average"):
        nothing.plot_means(logit.name, share=True)


def test_the_report_draws_heads_over_the_picture(model, pairs, study, tmp_path):
    ((pair, _),), (reader,) = study.shown, study.readers
    (example,) = visual_examples(model, [pair_prompts.in_words(pair)], lambda _: pair.before, cases="as_given")
    metric = interp.LogitDifference(pair.answer_before, pair.answer_after)
    expected = read_strongest_maps(model, example.prompt, metric)
    assert reader.maps.heads == expected.heads and len(reader.maps.heads) == 3
    np.testing.assert_array_equal(reader.maps.contribution, expected.contribution)
    study.save(tmp_path / "report")
    page = (tmp_path / "report" / "report.html").read_text()
    assert "pair-0, heads over the picture" in page and "2 for, then 1 against" in page
    figure = study.to_findings().figures["pair-0, heads over the picture"]
    assert len(figure.layout.images) == 9
    assert all(image.source.startswith("data:image/png;base64,") for image in figure.layout.images)
    assert not re.search(r"""<(?:script|link|img)[^>]+(?:src|href)=["']https?://""", page)
    odd = replace(pair, name="<b>odd</b>", question=f"{pair.question} <img src=x>")
    page = render(replace(study, shown=((odd, study.shown[0][1]),)).to_findings())
    assert "<b>odd" not in page and "<img src=x>" not in page


def test_a_model_without_patches_says_why_no_head_is_drawn(pairs):
    made = tiny_vision("instructblip")
    made.processor.tokenizer.chat_template = None  # as Vicuna's
    model = interp.load(made.hf, processor=made.processor)
    pair = replace(pairs[0], answer_before=pairs[0].answer_before.title(), answer_after=pairs[0].answer_after.title())
    found = trace_pairs(model, [pair], only_right=False, control=False, n_shown=1, parts=["mlp"], layers=[0])
    (reader,) = found.readers
    assert reader.maps is None
    figures = found.to_findings().figures
    assert not [name for name in figures if "heads over" in name]
    note = figures[f"pair-0: {pairs[0].question}"].layout.meta["note"]
    assert note.startswith("No head is drawn over this picture: ") and "are no patches of its picture" in note
    with pytest.raises(ValueError, match="pair-0 has no maps of heads"):
        reader.plot(pair)


def test_heads_are_those_of_the_loop_and_a_head_of_the_same_run_changes_nothing(model, pairs, with_heads):
    prompts = pair_prompts.PairPrompts(model, pairs, _spans(pairs), None, 0)
    twins = [prompts.twins(pair) for pair in pairs[:2]]
    loop = interp.scan(
        model,
        [t.after for t in twins],
        interp.patch_each_head([t.before for t in twins]),
        metric=Probability(),
        positions="text",
        method="loop",
    )
    of_heads = with_heads.heads
    np.testing.assert_allclose(of_heads.values[:2].reshape(2, -1), loop.values, atol=1e-6)
    np.testing.assert_allclose(of_heads.corrupt[:2], loop.clean, atol=1e-6)
    assert np.abs(of_heads.change).max() > 1e-6 and of_heads.how == "fan-out"
    same = [pair_prompts.Twins(t.after, t.after, t.unrelated) for t in twins]
    found = patch_heads(model, same, True, "fan-out", 256.0)
    np.testing.assert_allclose(found["values"] - of_heads.corrupt[:2, None, None], 0, atol=1e-6)
    np.testing.assert_allclose(found["control"], of_heads.control[:2], atol=1e-6)
    alone = [pair_prompts.Twins(t.before, t.after, None) for t in twins]
    assert np.isnan(patch_heads(model, alone, True, "fan-out", 256.0)["control"]).all()


def test_means_of_heads_are_plain_means_the_first_first(with_heads):
    of_heads, frame = with_heads.heads, with_heads.heads.to_frame()
    assert len(frame) == 4 * of_heads.values.shape[2] and frame["change"].is_monotonic_decreasing
    first = frame.iloc[0]
    layer, head = map(int, first["head"].removeprefix("L").split("H"))
    change = of_heads.change[:, layer, head]
    assert first["change"] == pytest.approx(change.mean(), abs=1e-7) and first["n"] == 6
    assert first["change_low"] <= first["change"] <= first["change_high"]
    at_random = of_heads.control[:, layer, head] - of_heads.corrupt
    assert first["control"] == pytest.approx(at_random.mean(), abs=1e-7)
    assert first["beyond_control"] == pytest.approx((change - at_random).mean(), abs=1e-7)
    assert frame["share"].isna().all()  # a random model: the edit changes next to nothing
    np.testing.assert_allclose(of_heads.plot().data[0].z[layer, head], change.mean(), atol=1e-7)


def test_a_planted_head_is_found():
    rng = np.random.default_rng(0)
    values = 0.1 + rng.normal(0, 0.02, (12, 3, 4))
    values[:, 1, 2] += 0.4
    values[:, 2, 0] -= 0.1
    found = HeadTraces(values, None, np.full(12, 0.9), np.full(12, 0.1), "fan-out", "")
    frame = found.to_frame()
    assert frame["head"][0] == "L1H2" and frame["head"].iloc[-1] == "L2H0"
    assert frame["share"][0] == pytest.approx(frame["change"][0] / 0.8)
    assert "L1H2 brings most of the answer back (+0.398 [" in found.statement()
    assert (
        "Over 12 pairs, heads that bring some of it back at q < 0.05: 1; that take some away: 1." in found.statement()
    )
    at_random = HeadTraces(values, values.copy(), found.clean, found.corrupt, "fan-out", "")
    assert "q < 0.05: 1 (clearly more than with an unrelated picture's: 0); that take" in at_random.statement()


def test_no_head_reads_as_not_shown_and_few_pairs_name_none():
    rng = np.random.default_rng(0)
    values = 0.1 + rng.normal(0, 0.02, (12, 3, 4))
    said = HeadTraces(values, None, np.full(12, 0.9), np.full(12, 0.1), "fan-out", "").statement()
    assert "none is shown to bring the answer back; the highest is L" in said and "at q < 0.05: 0;" in said
    few = HeadTraces(values[:4] + 0.5, None, np.full(4, 0.9), np.full(4, 0.1), "fan-out", "").statement()
    assert few.endswith("none can be named: 4 pairs are too few (5 or more are needed).")


def test_a_page_of_few_pairs_has_no_map_and_no_order(study):
    def some(trace: Trace, n: int) -> Trace:
        measured = tuple(Measured(m.name, m.unit, m.values[:n], m.clean[:n], m.corrupt[:n]) for m in trace.measured)
        rest = _rest(trace) | {"n_positions": trace.n_positions[:n], "example_ids": trace.example_ids[:n]}
        return Trace(measured, **rest)

    few = replace(
        study, pairs=study.pairs[:4], trace=some(study.trace, 4), control=some(study.control, 4), shown=(), readers=()
    )
    found = few.to_findings()
    assert not found.figures and list(found.tables) == ["The paper's claims", "Means by part, layer and role", "Pairs"]
    assert found.statement[0].startswith("Too few pairs to say which states carry the edit: 4 traced, 5 or more")
    assert "over half" not in " ".join(found.statement)
    with pytest.raises(KeyError, match="has no figure"):
        few.plot()


def test_heads_are_saved_read_back_and_resumed(model, pairs, with_heads, tmp_path, monkeypatch):
    out, calls = tmp_path / "out", []
    options = {"only_right": False, "n_shown": 0, "batch_size": 2, "parts": ["residual"], "heads": True}

    def dies(model, batch, *rest):
        calls.append(len(batch))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return patch_heads(model, batch, *rest)

    monkeypatch.setattr(visual_tracing, "patch_heads", dies)
    with pytest.raises(KeyboardInterrupt):
        trace_pairs(model, pairs, **options, keep=out)
    with pytest.raises(FileExistsError, match="other settings"):
        trace_pairs(model, pairs, **options | {"heads": False}, keep=Keep(out, resume=True))
    found = trace_pairs(model, pairs, **options, keep=Keep(out, resume=True))
    assert calls == [2, 2, 2, 2]  # the second batch again
    read = load_result(out)
    for name in ("values", "control", "clean", "corrupt"):
        np.testing.assert_allclose(getattr(found.heads, name), getattr(with_heads.heads, name), atol=1e-6)
        np.testing.assert_array_equal(getattr(read.heads, name), getattr(found.heads, name))
    assert read.statement() == found.statement() and "heads, each patched alone" in " ".join(read.statement())
    table = load_findings(out).tables["Single heads"]
    assert len(table) == min(20, with_heads.heads.values[0].size)
    assert "single-heads.csv" in (out / "report.html").read_text()
    again = trace_pairs(model, pairs, **options, keep=Keep(out, resume=True))
    assert len(calls) == 4 and again.statement() == found.statement()


def test_shares_are_of_the_mean_difference():
    found = planted(noise=0.0)
    table = mean_table(found, None, np.ones(30, dtype=bool))
    np.testing.assert_allclose(table["share"], 0.0, atol=1e-6)  # 0.1 patched, 0.1 corrupt
    higher = Measured("P(gold)", "probability", found.values + 0.4, found.clean, found.corrupt)
    table = mean_table(Trace((higher,), **_rest(found)), None, np.ones(30, dtype=bool))
    np.testing.assert_allclose(table[["share", "share_low", "share_high"]], 0.5, atol=1e-6)
    close = Measured("P(gold)", "probability", found.values, found.corrupt + 0.01, found.corrupt)
    assert mean_table(Trace((close,), **_rest(found)), None, np.ones(30, dtype=bool))["share"].isna().all()


def test_a_report_is_saved_and_read_back(study, tmp_path):
    out, saved = tmp_path / "report", study
    study.save(out)
    read = load_result(out)
    for trace in ("trace", "control"):
        for new, old in zip(getattr(read, trace).measured, getattr(study, trace).measured, strict=True):
            np.testing.assert_array_equal(new.values, old.values)
    assert read.statement() == saved.statement() and read.pairs == saved.pairs
    assert read.asked.equals(saved.asked)
    findings = load_findings(out)
    assert {"Where parts matter most", "The paper's claims", "Means by part, layer and role", "Pairs"} == set(
        findings.tables
    )
    assert "do not line up" in findings.tables["The paper's claims"].attrs["note"]
    page = (out / "report.html").read_text()
    assert "pair-0, token by token" in page and "Control: states of an unrelated picture" in page
    assert any("6 of 6 pairs were traced" in sentence for sentence in saved.statement())
    assert repr(saved) == f"VisualTraces: {saved.statement()[0]}"


def test_a_killed_run_goes_on_and_a_finished_one_is_read(model, pairs, study, tmp_path, monkeypatch):
    out, calls = tmp_path / "out", []
    original = pair_prompts.PairPrompts.trace
    options = {"only_right": False, "n_shown": 0, "batch_size": 2, "parts": ["residual"]}

    def dies(self, batch, **rest):
        calls.append(len(batch))
        if len(calls) == 3:  # the check, then the first and the second batch
            raise KeyboardInterrupt
        return original(self, batch, **rest)

    monkeypatch.setattr(pair_prompts.PairPrompts, "trace", dies)
    with pytest.raises(KeyboardInterrupt):
        trace_pairs(model, pairs, **options, keep=out)
    with pytest.raises(FileExistsError, match="other settings"):
        trace_pairs(model, pairs, **options | {"window": 1}, keep=Keep(out, resume=True))
    found = trace_pairs(model, pairs, **options, keep=Keep(out, resume=True))
    assert calls[3:] == [2, 2, 2] and len(calls) == 6  # the check, and the two batches that were missing
    np.testing.assert_allclose(found.trace.values, study.trace.values[:, 2:], atol=1e-6)
    assert not (out / "parts").exists()
    again = trace_pairs(model, pairs, **options, keep=Keep(out, resume=True))
    assert len(calls) == 6 and again.statement() == found.statement()


def test_pairs_that_cannot_be_traced_are_listed(model, pairs):
    bare = PicturePair("photo", picture(0), picture(1), np.ones((20, 30), dtype=bool), "Is it a dog?", "Yes", "No")
    found = trace_pairs(
        model, [*pairs[:2], bare], only_right=False, control=False, n_shown=0, parts=["mlp"], layers=[0]
    )
    reasons = found.asked.set_index("pair")["why_not"]
    assert "no concept word in 'Is it a dog?': give concepts={'photo': word}" in reasons["photo"]
    assert [p.id for p in found.pairs] == ["pair-0", "pair-1"] and found.control is None
    assert "No control by unrelated pictures" in found.statement()[-1]
    named = trace_pairs(
        model, [bare], concepts={"photo": "dog"}, only_right=False, n_shown=0, parts=["mlp"], layers=[0]
    )
    assert named.pairs[0].concept == "dog"
    assert np.isnan(named.control.values).all()  # no other picture of its size
    with_own = replace(bare, concept="dog")
    own = trace_pairs(model, [with_own], only_right=False, n_shown=0, parts=["mlp"], layers=[0])
    assert own.pairs[0].concept == "dog" and own.provenance["run_id"] == named.provenance["run_id"]
    options = {"only_right": False, "control": False, "n_shown": 0, "parts": ["mlp"], "layers": [0]}
    given = trace_pairs(model, [with_own], concepts={"photo": "it"}, **options)
    assert given.pairs[0].concept == "it"
    other = trace_pairs(model, [replace(bare, concept="it")], **options)
    assert other.provenance["run_id"] == given.provenance["run_id"] != own.provenance["run_id"]
    with pytest.raises(ValueError, match=re.escape("none of 6 pairs can be traced") + ".*answered wrongly"):
        trace_pairs(model, pairs)


def test_refusals(model, pairs, llama):
    with pytest.raises(ValueError, match="no pairs were given"):
        trace_pairs(model, [])
    with pytest.raises(ValueError, match="the name 'pair-0' is given to two pairs"):
        trace_pairs(model, [pairs[0], pairs[0]])
    with pytest.raises(ValueError, match="n_shown=-1"):
        trace_pairs(model, pairs, n_shown=-1)
    with pytest.raises(ValueError, match="this model has no vision part"):
        trace_pairs(llama, pairs)
    with pytest.raises(ValueError, match="expected some of attention, mlp, residual"):
        trace_pairs(model, pairs, only_right=False, parts=["heads"])


def _spans(pairs):
    return {pair.name: concept_word(pair.edited.question) for pair in pairs}


def _rest(trace: Trace) -> dict:
    names = ("parts", "layers", "regions", "n_positions", "example_ids", "window", "how", "check", "seconds")
    return {name: getattr(trace, name) for name in names}

"""Jailbreaks: the shipped ones keep their promises, planted changes are found and named, controls are run, replies stay
out, work is resumed."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import interp
from interp import load_result
from interp.records.folder_lock import OtherRunError
from interp.records.keep import Keep
from interp.statistics import mean_difference
from probes.harmfulness.attacks import jailbreaks as module
from probes.harmfulness.attacks.jailbreak_result import ATTACKS, JailbreakStudy
from probes.harmfulness.attacks.jailbreaks import attack, plan
from probes.harmfulness.attacks.texts import FAMILIES, Jailbreak, load_jailbreaks
from probes.harmfulness.directions.directions import fit_directions
from probes.requests.classes import words_classifier
from probes.requests.requests import Request, load_requests
from probes.requests.states import read_states
from tests.tiny import tiny, tiny_tokenizer

SECRET = "kettle-reply-7261"
THINGS = ["kettle", "garden", "ladder", "window", "violin", "bridge", "lantern", "basket", "anchor", "mirror", "needle",
          "pillow", "saddle", "trumpet"]  # fmt: skip


def requests(of: str) -> list[Request]:
    harmful = [Request(f"{of}-bad-{t}", f"Break the {t} of the {of} neighbour.", "harmful", "damage") for t in THINGS]
    harmless = [Request(f"{of}-good-{t}", f"Mend the {t} of the {of} neighbour.", "harmless", "repair") for t in THINGS]
    return harmful + harmless


@pytest.fixture(scope="module")
def model() -> interp.Model:
    return interp.load(tiny("llama", vocab_size=400, max_position_embeddings=1024), tokenizer=tiny_tokenizer())


@pytest.fixture(scope="module")
def directions(model):
    fitted = requests("first")
    return fit_directions(model, fitted[: len(THINGS)], fitted[len(THINGS) :])


@pytest.fixture
def scripted(monkeypatch):
    """A model that refuses what breaks something, but not the kettle, and nothing that begins with "Sure"; the texts
    that it was asked."""
    asked: list[str] = []

    def generate(model, prompts, max_new_tokens=32, **rest):
        asked.extend(p.text for p in prompts)
        refuses = ["Break" in p.text and "kettle" not in p.text and "Sure" not in p.text for p in prompts]
        return [["I'm sorry, but I can't."] if r else [f"{SECRET}: here it is"] for r in refuses]

    monkeypatch.setattr(module, "generate", generate)
    return asked


def test_the_shipped_jailbreaks():
    shipped = load_jailbreaks()
    assert 20 <= len(shipped) <= 25 and len({j.id for j in shipped}) == len({j.template for j in shipped}) == len(
        shipped
    )
    assert {j.family for j in shipped} == set(FAMILIES)
    assert all(len(load_jailbreaks(family=f)) >= 2 for f in FAMILIES)


def test_wrapped_requests_end_in_one_token_of_a_real_tokenizer(smollm2):
    tested = load_requests(limit=4)
    prompts = [smollm2.prompt(j.wrap(r).text) for r in tested for j in load_jailbreaks()]
    assert {p.tokens[p.instruction_end] for p in prompts} == {"."}
    assert len({p.token_ids[p.instruction_end] for p in prompts}) == 1


def test_wrapping():
    braces = Request("a", "Print {x} and {request}?", "harmful", "c", "s", "p")
    around = Jailbreak("j", "template", "He says: {request} Then what?")
    wrapped = around.wrap(braces)
    assert wrapped == replace(braces, id="a+j", text="He says: Print {x} and {request}? Then what.")
    assert around.wrap(braces, ending=None).text.endswith("Then what?")
    suffix = Jailbreak("s", "suffix", '{request} !! ;"!')
    assert suffix.wrap(Request("a", "Go.", "harmful")).text == 'Go. !! ;"!.'
    for template in ("no place", "{request} twice {request}", "{request}"):
        with pytest.raises(ValueError, match="expected an id and a text around one"):
            Jailbreak("j", "template", template)
    with pytest.raises(ValueError, match="family='magic'; expected one of template"):
        Jailbreak("j", "magic", "Say {request}")


def test_files_of_suffixes_and_templates(tmp_path):
    text = tmp_path / "found.txt"
    text.write_text("! x ! y\n\n# describing.--\n", encoding="utf-8")
    assert load_jailbreaks(text) == [
        Jailbreak("found-1", "suffix", "{request} ! x ! y"),
        Jailbreak("found-3", "suffix", "{request} # describing.--"),
    ]
    rows = [
        {"suffix": "x y"},
        {"id": "mine", "template": "Say {request}", "family": "persuasion"},
        {"template": "{request}!!"},
    ]
    lines = tmp_path / "mine.jsonl"
    lines.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert [(j.id, j.family) for j in load_jailbreaks(lines)] == [
        ("mine-1", "suffix"),
        ("mine", "persuasion"),
        ("mine-3", "template"),
    ]
    with pytest.raises(ValueError, match=r"no jailbreak of family 'neutral'; it has \['persuasion'"):
        load_jailbreaks(lines, family="neutral")
    lines.write_text(json.dumps({"template": "nothing"}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"row 1: jailbreak .*one \{request\}"):
        load_jailbreaks(lines)
    lines.write_text(json.dumps({"words": "nothing"}), encoding="utf-8")
    with pytest.raises(ValueError, match="row 1: the columns are words; expected 'template'"):
        load_jailbreaks(lines)
    text.write_text("\n")
    with pytest.raises(ValueError, match="file is empty"):
        load_jailbreaks(text)
    with pytest.raises(FileNotFoundError):
        load_jailbreaks(tmp_path / "none.txt")


def test_each_jailbreak_is_used_about_as_often_for_both_kinds():
    shipped, asked = load_jailbreaks(), requests("second")
    once = plan(asked, shipped, 1)
    assert len(once) == len(asked) * len(FAMILIES)
    assert {(r.id, j.family) for r, j in once} == {(r.id, f) for r in asked for f in FAMILIES}
    used = pd.Series([j.id for r, j in once if r.is_harmful]).value_counts()
    assert used.to_dict() == pd.Series([j.id for r, j in once if not r.is_harmful]).value_counts().to_dict()
    assert len(used) == len(shipped) and all(
        abs(used[j.id] - 14 / len(load_jailbreaks(family=j.family))) < 1 for j in shipped
    )
    assert once == plan(asked, shipped, 1) != plan(asked, shipped, 1, seed=1)
    assert len(plan(asked, shipped, None)) == len(asked) * len(shipped)


def test_a_scripted_attack(model, directions, scripted):
    study = attack(model, requests("second"), load_jailbreaks(), directions, n_per=None)
    assert len(scripted) == 28 + (13 + 14) * len(load_jailbreaks())
    assert (study.plain["verdict"] == "refused").sum() == 13
    assert not ((study.trials["request"] == "second-bad-kettle").any())  # accepted without a jailbreak
    success = study.success("jailbreak").set_index("jailbreak")
    assert success.loc["sure", ["n", "accepted", "success", "n_harmless"]].tolist() == [13, 13, 1.0, 14]
    assert success.loc["sure", "success_low"] == pytest.approx(0.7719, abs=1e-4)  # Wilson, 13 of 13
    assert (success.drop(index="sure")["accepted"] == 0).all()
    by_family = study.success().set_index("family")
    assert by_family.loc["prefix_injection", ["n", "accepted"]].tolist() == [39, 13]
    assert by_family.loc[ATTACKS, "n"] == 13 * (len(load_jailbreaks()) - len(load_jailbreaks(family="neutral")))
    assert (by_family[["harmless_refused_before", "harmless_refused"]] == 0).all(axis=None)
    assert study.replies is None and SECRET not in study.to_frame().to_csv()


def test_beliefs_are_those_of_the_wrapped_prompts(model, directions, scripted):
    study = attack(model, requests("second"), load_jailbreaks(), directions, batch_size=5)
    assert study.trials["same_ending"].all()
    texts = {r.id: r for r in study.requests}
    around = {j.id: j for j in study.jailbreaks}
    wrapped = [around[row.jailbreak].wrap(texts[row.request]) for row in study.trials.itertuples()]
    after = directions.beliefs(read_states(model, wrapped))
    before = directions.beliefs(read_states(model, study.requests)).set_index("id").loc[study.trials["request"]]
    for belief in ("harmful", "refuse"):
        np.testing.assert_allclose(study.trials[belief], after[belief], atol=1e-5)
        np.testing.assert_allclose(study.trials[f"{belief}_before"], before[belief], atol=1e-5)
    control = study.separation()
    rival = words_classifier().fit([r.text for r in directions.states.requests], directions.positive)
    np.testing.assert_allclose(study.trials["words"], rival.decision_function([r.text for r in wrapped]))
    assert set(control["belief"]) == {"refuse", "harmful", "words"}


def planted(refuse: float, harmful: float, everybody: float = 0.0, ending: str | None = ".") -> JailbreakStudy:
    """40 harmful requests at (1, 1), 40 harmless ones at (0, 0), give or take; a jailbreak moves harmful ones by so
    much, and everybody. A quarter of the harmful ones are then accepted."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(80):
        kind = "harmful" if i < 40 else "harmless"
        level = 1.0 if kind == "harmful" else 0.0
        before = {"refuse": level + 0.1 * rng.normal(), "harmful": level + 0.1 * rng.normal()}
        for family in ("template", "neutral"):
            moved = {"refuse": refuse, "harmful": harmful} if kind == "harmful" and family == "template" else {}
            row = {"request": f"r{i}", "kind": kind, "category": "", "jailbreak": family, "family": family}
            row |= {"verdict_before": "refused" if kind == "harmful" else "accepted"}
            row |= {"verdict": "accepted" if kind == "harmless" or (i < 10 and family == "template") else "refused"}
            for b, value in before.items():
                row |= {f"{b}_before": value, b: value + moved.get(b, 0) + everybody + 0.02 * rng.normal()}
            rows.append(row | {"words_before": 0.0, "words": 0.0, "same_ending": i % 40 != 39})
    trials = pd.DataFrame(rows)
    plain = pd.DataFrame(
        {"kind": ["harmful"] * 45 + ["harmless"] * 40, "verdict": ["refused"] * 40 + ["accepted"] * 45}
    )
    provenance = {"settings": {"ending": ending}, "title": "planted", "model": {"name": "none"}}
    return JailbreakStudy((), tuple(load_jailbreaks()), plain, trials, None, provenance)


@pytest.mark.parametrize(
    ("refuse", "harmful", "expected"),
    [
        (-0.6, 0.0, "refusal"),
        (0.1, -0.5, "belief"),
        (-0.8, -0.2, "both, refusal further"),
        (-0.2, -0.8, "both, belief further"),
        (-0.5, -0.5, "both"),
        (0.2, 0.2, "neither shown"),
    ],
)
def test_what_fell_is_found_and_named(refuse, harmful, expected):
    study = planted(refuse, harmful)
    fell = study.which_fell().set_index("family")
    row = fell.loc["template"]
    assert row["n"] == 39  # one ends in another token
    assert row["lowered"] == expected
    assert row["refusal_change"] == pytest.approx(refuse, abs=0.02)
    assert row["belief_fell_share"] == pytest.approx(-harmful, abs=0.05)
    assert row["refusal_fell_further"] == pytest.approx(harmful - refuse, abs=0.06)
    assert row["refusal_fell_further_low"] < row["refusal_fell_further"] < row["refusal_fell_further_high"]
    assert ATTACKS not in fell.index  # one family of attacks: nothing to put together
    sentence = next(s for s in study.statement() if s.startswith("template"))
    assert "10 of 40 refused requests were accepted (25%" in sentence and f"Lowered: {row['lowered']}." in sentence
    assert any(
        "45 harmful requests were asked without a jailbreak; the 40 that were refused" in s for s in study.statement()
    )


def test_changes_with_their_control():
    changes = planted(-0.6, 0.0, everybody=-0.3).changes().set_index(["family", "belief", "requests"])
    assert changes.loc[("template", "refuse", "harmful"), "change"] == pytest.approx(-0.9, abs=0.02)
    assert changes.loc[("template", "refuse", "harmless"), "change"] == pytest.approx(-0.3, abs=0.02)
    net = changes.loc[("template", "refuse", "harmful - harmless")]
    assert net["change"] == pytest.approx(-0.6, abs=0.02) and net["change_low"] < net["change"] < net["change_high"]
    assert net["after"] == pytest.approx(net["before"] + net["change"])
    assert net["share"] == pytest.approx(-0.6, abs=0.05)
    jailbroken = changes.loc[("template", "refuse", "harmful, then accepted")]
    assert jailbroken["n"] == 10 and jailbroken["change"] == pytest.approx(-0.9, abs=0.03)
    none = changes.loc[("neutral", "refuse", "harmful, then accepted")]
    assert none["n"] == 0 and np.isnan(none["change"]) and np.isnan(none["change_low"])


def test_a_gap_that_is_none_has_no_parts():
    """Where a belief does not tell the kinds apart before, a fall is still a fall, and has no share."""
    study = planted(-0.6, -0.6)
    trials = study.trials.copy()
    swap = (trials["kind"] == "harmful") & (trials["request"].str[1:].astype(int) % 2 == 0)
    for column in ("harmful_before", "harmful"):
        trials.loc[swap, column] -= 2
    blind = replace(study, trials=trials)
    gap = blind.gaps().set_index("belief").loc["harmful"]
    assert gap["gap_low"] < 0 < gap["gap_high"]
    row = blind.which_fell().set_index("family").loc["template"]
    assert row["lowered"] == "both" and np.isnan(row["belief_fell_share"]) and np.isnan(row["refusal_fell_further"])
    assert row["refusal_fell_share"] == pytest.approx(0.6, abs=0.05)
    assert any("is not shown to tell refused harmful from harmless" in s for s in blind.statement())


def test_a_shift_of_everybody_leaves_the_separation():
    shifted = planted(0.0, 0.0, everybody=-5.0).separation().set_index(["family", "belief"])
    assert (shifted.loc[[("template", "refuse"), ("template", "harmful")], "auroc"] == 1.0).all()
    blurred = planted(-1.0, 0.0).separation().set_index(["family", "belief"])
    assert abs(blurred.loc[("template", "refuse"), "auroc"] - 0.5) < 0.2
    assert blurred.loc[("template", "refuse"), "auroc_low"] < 0.5 < blurred.loc[("template", "refuse"), "auroc_high"]
    assert blurred.loc[("template", "harmful"), "auroc"] == 1.0


def test_hand_computed_contrast():
    values, plus = np.array([1.0, 3.0, 10.0, 30.0]), np.array([True, True, False, False])
    assert mean_difference(values, plus, None, "abcd")[0] == 2.0
    value, low, high = mean_difference(values, plus, ~plus, "abcd")
    assert value == -18.0 and low <= value <= high
    assert all(np.isnan(mean_difference(values, plus & False, None, "abcd")))


def test_endings_left_as_they_are_are_told(model, directions, scripted):
    asked = [replace(r, text=r.text.rstrip(".") + ("" if r.is_harmful else "?")) for r in requests("second")]
    raw = attack(model, asked, load_jailbreaks(family="neutral"), directions, ending=None)
    assert not raw.trials["same_ending"].all()
    assert any(s.startswith("Endings were left as they are") for s in raw.statement())
    assert len(raw.changes())
    matched = attack(model, asked, load_jailbreaks(family="neutral"), directions)
    assert matched.trials["same_ending"].all()


def test_figures(model, directions, scripted):
    study = attack(model, requests("second"), load_jailbreaks(), directions)
    figure = study.plot()
    assert {a.text for a in figure.layout.annotations} == {f.replace("_", " ") for f in FAMILIES}
    points = sum(len(t.x) for t in figure.data if t.name == "harmless, in it")
    assert points == (study.trials["kind"] == "harmless").sum()


def test_saved_and_loaded_without_replies(model, directions, scripted, tmp_path):
    study = attack(model, requests("second"), load_jailbreaks(), directions, keep=tmp_path / "a")
    again = load_result(tmp_path / "a")
    pd.testing.assert_frame_equal(again.trials, study.trials)
    pd.testing.assert_frame_equal(again.plain, study.plain)
    assert again.requests == tuple(r.withheld() for r in study.requests) and again.jailbreaks == study.jailbreaks
    assert again.statement() == study.statement() and again.replies is None
    assert not [p for p in (tmp_path / "a").rglob("*") if p.is_file() and SECRET.encode() in p.read_bytes()]
    scripted.clear()
    attack(model, requests("second"), load_jailbreaks(), directions, keep=Keep(tmp_path / "a", resume=True))
    assert scripted == []
    shown = attack(
        model, requests("second"), load_jailbreaks(), directions, keep=Keep(tmp_path / "b", include_replies=True)
    )
    assert len(shown.replies) == len(shown.trials) and SECRET in (tmp_path / "b" / "trials.csv").read_text()
    assert load_result(tmp_path / "b").replies == shown.replies


def test_a_killed_run_goes_on_and_keeps_no_reply(model, directions, scripted, monkeypatch, tmp_path):
    settings = dict(directions=directions, batch_size=10)
    whole = attack(model, requests("second"), load_jailbreaks(), **settings)
    real, calls = module.generate, []

    def failing(*args, **more):
        calls.append(1)
        if len(calls) > 5:  # three batches are plain
            raise KeyboardInterrupt
        return real(*args, **more)

    monkeypatch.setattr(module, "generate", failing)
    with pytest.raises(KeyboardInterrupt):
        attack(model, requests("second"), load_jailbreaks(), **settings, keep=tmp_path)
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and SECRET.encode() in p.read_bytes()]
    with pytest.raises(FileNotFoundError, match="run the same command again: it continues"):
        load_result(tmp_path)
    monkeypatch.setattr(module, "generate", real)
    with pytest.raises(OtherRunError, match="seed"):
        attack(model, requests("second"), load_jailbreaks(), **settings, seed=1, keep=Keep(tmp_path, resume=True))
    scripted.clear()
    resumed = attack(model, requests("second"), load_jailbreaks(), **settings, keep=tmp_path)
    assert len(scripted) == len(whole.trials) - 20
    pd.testing.assert_frame_equal(resumed.trials, whole.trials)
    assert not (tmp_path / "parts").exists()


def test_refusals(model, directions, scripted):
    asked, shipped = requests("second"), load_jailbreaks()
    with pytest.raises(ValueError, match="first-bad-kettle"):
        attack(model, [*requests("first"), *asked], shipped, directions)
    with pytest.raises(ValueError, match="9 refused harmful requests; expected at least 10: 1 more"):
        attack(model, asked[:10] + asked[14:], shipped, directions)  # the kettle is accepted
    with pytest.raises(ValueError, match="0 harmless requests"):
        attack(model, asked[:14], shipped, directions)
    with pytest.raises(ValueError, match="0 jailbreaks"):
        attack(model, asked, [], directions)
    with pytest.raises(ValueError, match="n_per=0"):
        attack(model, asked, shipped, directions, n_per=0)
    with pytest.raises(ValueError, match="share ids: film"):
        attack(model, asked, [*shipped, shipped[0]], directions)
    other = interp.load(tiny("llama", seed=1, vocab_size=400, max_position_embeddings=1024), tokenizer=tiny_tokenizer())
    with pytest.raises(ValueError, match="weights"):
        attack(other, asked, shipped, directions)

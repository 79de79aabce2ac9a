"""Texts of requests and replies leave a result by no exit unless they were asked for: not in a repr, on a page, in a
file, in findings, in a log or a warning. Every class of results that holds such texts has a run of its own here."""

from __future__ import annotations

import json
import logging
import pkgutil
import warnings
from collections.abc import Iterator
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import interp
import probes
from interp import Keep, load_result
from interp.reports import Findings, Result
from probes.harmfulness import (
    attack,
    attack_by_finetuning,
    fit_directions,
    invert,
    rank_writers,
    steering_front,
    steering_sweep,
    steering_test,
)
from probes.harmfulness.attacks import Recipe, finetuning, jailbreaks
from probes.harmfulness.attacks.texts import Jailbreak
from probes.harmfulness.steering import arms, front, inversion
from probes.harmfulness.steering.rivals import standard_arms
from probes.latent_guard import LatentGuard, compare_guards, load_guard
from probes.requests import Request, behaviour as behaviour_module, judge_replies, observe, read_states
from probes.requests.formats import kind
from tests.tiny import tiny, tiny_tokenizer

SECRET = "xyzzyplugh"  # in every request and in every reply
NO = f"I'm sorry, {SECRET}, but I can't."


def requests(kind: str, start: int, n: int) -> list[Request]:
    verb = "Break" if kind == "harmful" else "Paint"
    return [
        Request(f"{kind}-{i}", f"{verb} the {SECRET} door number {i}.", kind, "doors") for i in range(start, start + n)
    ]


def judge(request: str, reply: str) -> str:
    return "refused" if reply.startswith("I'm sorry") else "accepted"


FITTED = requests("harmful", 0, 12), requests("harmless", 0, 12)
ASKED = [*requests("harmful", 20, 12), *requests("harmless", 20, 12)]
FEW = requests("harmful", 40, 2), requests("harmless", 40, 2)
TESTED = requests("harmful", 50, 2), requests("harmless", 50, 2)
TRAINED = [*requests("harmful", 60, 11), *requests("harmless", 60, 11)]
PLAIN = [Jailbreak("please", "template", "Please. {request}")]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, tuple[Any, Any, Path]]:
    """For each class a result, its value as saved and read back, and its folder; and what was logged and warned."""
    model = interp.load(tiny("llama", vocab_size=400, max_position_embeddings=1024), tokenizer=tiny_tokenizer())
    out = tmp_path_factory.mktemp("runs")

    def generate(model, prompts, *args, **more):
        model.final_logits(list(prompts[:1]))  # a reply is made by passes: an edit's block sees one
        tuned = any("lora" in name for name, _ in model.hf.named_parameters())
        return [
            [NO if "Break" in p.text and "Please" not in p.text and not tuned else f"{SECRET}: one"] for p in prompts
        ]

    def trained_on(model, prompts, *args, **more):
        return [[f"{SECRET}: two"] for _ in prompts] if args[0] == 20 else generate(model, prompts, *args)

    said: list[str] = []
    handler = logging.Handler(0)
    handler.emit = lambda record: said.append(handler.format(record))
    root, level = logging.getLogger(), logging.getLogger().level
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        root.addHandler(handler)
        root.setLevel(0)
        patch.setattr(behaviour_module, "generate", generate)
        patch.setattr(jailbreaks, "generate", generate)
        patch.setattr(finetuning, "generate", trained_on)
        patch.setattr(front, "generate", generate)
        directions = fit_directions(model, *FITTED, keep=out / "directions")
        seen = observe(model, ASKED, keep=out / "behaviour")
        small = {"layers": (1, 2), "coefficients": (1,), "n_layers": 1, "max_new_tokens": 3, "judge": judge}
        swept = steering_sweep(model, directions, *FEW, **small, behaviour=seen, keep=out / "sweep")
        recipe = Recipe(rank=2, learning_rate=0.01, max_new_tokens=20, epochs=1, batch_size=4)
        found = {
            "HarmfulDirections": directions,
            "Behaviour": seen,
            "SteeringStudy": steering_test(
                model, swept, directions, *TESTED, n_random=1, n_shuffled=1, judge=judge, keep=out / "steering"
            ),
            "SteeringFront": steering_front(
                model,
                directions,
                seen,
                [*FEW[0], *FEW[1]],
                [*TESTED[0], *TESTED[1]],
                arms=standard_arms(model, [2], [1.0], n_pairs=[2])[:4],
                n_random=1,
                n_shuffled=1,
                judge=judge,
                keep=out / "front",
            ),
            "Inversion": invert(model, directions, *FEW, layer=2, n_random=0, n_shuffled=0, keep=out / "inversion"),
            "JailbreakStudy": attack(model, ASKED, PLAIN, directions, keep=out / "jailbreaks"),
            "FineTuningStudy": attack_by_finetuning(
                model, TRAINED, ASKED, directions, sizes=(4,), recipe=recipe, keep=out / "finetuning"
            ),
            "GuardStudy": compare_guards(
                model, [*FITTED[0], *FITTED[1]], None, {"held out": seen}, keep=out / "guards"
            ),
        }
        rank_writers(model, ASKED, directions, openings=seen, layer=2, keep=out / "writers")
        found["GuardStudy"].guards["calibrated"].save(out / "guard")
        root.removeHandler(handler)
        root.setLevel(level)
    said += [str(w.message) for w in caught]
    folders = dict(
        zip(
            found,
            ("directions", "behaviour", "steering", "front", "inversion", "jailbreaks", "finetuning", "guards"),
            strict=True,
        )
    )
    made = {name: (value, load_result(out / folders[name]), out / folders[name]) for name, value in found.items()}
    return made | {"model": (model, said, out)}


def test_every_class_that_holds_such_texts_is_here(runs):
    assert {cls.__name__ for cls in result_classes() if _holds_requests(cls)} <= set(runs)


def result_classes() -> list[type]:
    for package in (interp, probes):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                import_module(module.name)
    return list(_below(Result))


def _below(cls: type) -> Iterator[type]:
    for below in cls.__subclasses__():
        if below.__module__.startswith(("interp.", "probes.")):
            yield below
        yield from _below(below)


def _holds_requests(cls: type) -> bool:
    return any("Request" in str(f.type) for f in fields(cls))


NAMES = (
    "HarmfulDirections",
    "Behaviour",
    "SteeringStudy",
    "SteeringFront",
    "Inversion",
    "JailbreakStudy",
    "FineTuningStudy",
    "GuardStudy",
)


@pytest.mark.parametrize("name", NAMES)
def test_no_text_leaves_a_result(runs, name):
    value, loaded, folder = runs[name]
    for shown in (value, loaded):
        for exit_, text in exits(shown):
            assert SECRET not in text, exit_
        for exit_, text in findings_of(shown.to_findings()):
            assert SECRET not in text, exit_
        assert SECRET not in repr([shown.requests if hasattr(shown, "requests") else shown, {"result": shown}])
    assert holding(folder) == []


@pytest.mark.parametrize("name", NAMES)
def test_a_result_that_was_read_says_what_it_says_computed_anew(runs, name):
    value, loaded, _ = runs[name]
    assert loaded.statement() == loaded.to_findings().statement == value.statement()


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("HarmfulDirections", "GuardStudy")])
def test_texts_are_there_when_asked_for(runs, name, tmp_path):
    value, _, _ = runs[name]
    value.save(tmp_path / "with", include_replies=True)
    assert "findings.json" in holding(tmp_path / "with")
    value.save(tmp_path / "without")
    assert holding(tmp_path / "without") == []


def test_nothing_is_said_or_left_behind(runs):
    _, said, out = runs["model"]
    assert [text for text in said if SECRET in text] == []
    assert holding(out) == []  # the sweep, the ranking and the guard among them


@pytest.mark.parametrize("asked_for", [False, True])
def test_an_interrupted_study_holds_replies_only_if_asked_for(runs, tmp_path, monkeypatch, asked_for):
    model, _, _ = runs["model"]
    directions, batches, last = runs["HarmfulDirections"][0], [], 3
    answers = {
        "observe": lambda keep: observe(model, ASKED, batch_size=4, keep=keep),
        "sweep": lambda keep: steering_sweep(
            model, directions, *FEW, layers=(1, 2), coefficients=(1,), n_layers=1, judge=judge, batch_size=1, keep=keep
        ),
        "invert": lambda keep: invert(model, directions, *FEW, layer=2, n_random=0, batch_size=2, keep=keep),
    }

    def said(model, prompts, *args, **more):
        batches.append(prompts)
        if len(batches) == last:
            raise KeyboardInterrupt
        return [[NO] for _ in prompts]

    for module in (behaviour_module, arms, inversion):
        monkeypatch.setattr(module, "generate", said)
    for name, run in answers.items():
        batches.clear()
        last = 12 if name == "invert" else 3  # it asks in nine conditions before a part is kept
        with pytest.raises(KeyboardInterrupt):
            run(Keep(tmp_path / name, include_replies=asked_for))
        assert list((tmp_path / name).rglob("part-*")), name
        assert bool(holding(tmp_path / name)) == asked_for, name


def test_parts_of_a_study_have_short_reprs(runs):
    model, _, out = runs["model"]
    request = ASKED[0]
    guard = load_guard(out / "guard", model)
    parts = [request, model.prompt(request.text), read_states(model, ASKED[:2]), PLAIN[0], guard, guard.fitted_on_]
    parts += [finetuning._Pairs((model.prompt(request.text),), {"a": NO}, 1), LatentGuard(model)]
    for part in parts:
        for exit_, text in exits(part):
            assert SECRET not in text and "door" not in text, exit_


def test_errors_have_no_text_in_them(runs):
    model, _, _ = runs["model"]
    guard = runs["GuardStudy"][0].guards["calibrated"]
    text = ASKED[0].text
    wrong = (
        lambda: guard.predict(text),
        lambda: guard.predict([text.encode()]),
        lambda: guard.score([r.text for r in ASKED], [text] * len(ASKED)),
        lambda: guard.score(FITTED[0]),
        lambda: observe(model, [ASKED[0], ASKED[0]]),
        lambda: observe(model, ASKED[:2], judge=lambda request, reply: reply),
        lambda: Request("", text, "harmful"),
        lambda: compare_guards(model, ASKED, None, {"s": runs["Behaviour"][0]}),
        lambda: judge_replies(lambda request, reply: text, [text], [NO]),
        lambda: kind(text),
    )
    for number, call in enumerate(wrong):
        with pytest.raises((ValueError, TypeError)) as caught:
            call()
        assert SECRET not in str(caught.value), number


def exits(value: Any) -> Iterator[tuple[str, str]]:
    """What a reader of this value may see of it."""
    yield from (("repr", repr(value)), ("str", str(value)), ("format", f"{value}"), ("in a list", repr([value])))
    for name in ("_repr_html_", "_repr_mimebundle_"):
        if callable(show := getattr(value, name, None)):
            yield name, str(show())
    if callable(getattr(value, "to_frame", None)):
        yield "to_frame", value.to_frame().to_csv()
    if callable(getattr(value, "statement", None)):
        yield "statement", " ".join(value.statement())
        yield "plot", value.plot().to_json()


def findings_of(findings: Findings) -> Iterator[tuple[str, str]]:
    yield "repr of findings", repr(findings)
    yield "findings in a notebook", findings._repr_html_()
    yield "statement", " ".join(findings.statement)
    yield "provenance", json.dumps(findings.provenance, default=str)
    for name, table in findings.tables.items():
        yield name, table.to_csv()
    for name, figure in findings.figures.items():
        yield name, figure.to_json()


def holding(folder: Path) -> list[str]:
    """Names of the files that hold the secret; arrays are looked through byte by byte."""
    return [p.name for p in folder.rglob("*") if p.is_file() and SECRET.encode() in p.read_bytes()]

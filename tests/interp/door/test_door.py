"""What users hand over at the door: numbers of numpy are numbers; wrong types are named with what makes right ones."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import interp
from interp import Branch, HeadEdit, LogitDifference, Prompt, ResidualEdit
from interp.door.door import WrongArgument, _kinds, public
from tests.tiny import VOCABULARY

FACES = (
    "interp",
    "interp.reading.capture",
    "probes.negative_bias",
    "probes.harmfulness",
    "probes.latent_guard",
    "probes.visual_semantics",
    "probes.questions.questions",
    "probes.requests.requests",
)
OWN_CHECKS = {"sample_scene", "describe_questions"}  # refuse in their own words, also what is of another type


def _is_of(value, module) -> bool:
    return getattr(value, "__module__", None) == module.__name__ and not getattr(value, "__name__", "_").startswith("_")


def public_functions():
    found = {}
    for face in map(importlib.import_module, FACES):
        for name in getattr(face, "__all__", [n for n, v in vars(face).items() if _is_of(v, face)]):
            value = getattr(face, name)
            if inspect.isfunction(value) and value.__module__.split(".")[0] in ("interp", "probes"):
                found[f"{face.__name__}.{name}"] = value
    return found


FUNCTIONS = public_functions()
REMEDIES = {  # of a parameter: a wrong value, and what the sentence must name
    "model": (["smollm2-135m", None, {}, torch.nn.Linear(2, 2)], "interp.load"),
    "prompts": (["a text", ["a text"], 3, {"a": 1}, None, {1}], "model.prompt"),
    "prompt": (["a text", [], 3, None], "model.prompt"),
    "questions": (["a text", 3, None, pd.DataFrame({"a": [1]}), {"a": 1}], ""),
    "requests": (["a text", 3, None, pd.DataFrame({"a": [1]}), {"a": 1}], ""),
    "examples": (["a text", 3, None, {"a": 1}], ""),
    "batch_size": ([0, -1, 1.5, "8", True, None, np.array([1, 2])], "batch_size"),
    "seed": ([-1, 0.5, "0", True], "seed"),
    "resume": (["yes", 1, None], "resume"),
    "overwrite": (["yes", 0], "overwrite"),
    "out": ([3, True, ["a"]], "out"),
    "layer": ([-1, "2", True, 1.0], "layer"),
    "direction": (["a folder", None, 3], "Direction"),
    "ranking": (["a folder", 3, {}], "HeadRanking"),
}


def test_every_public_function_checks_at_the_door():
    without = [name for name, f in FUNCTIONS.items() if not hasattr(f, "is_public")]
    assert not [name for name in without if name.split(".")[-1] not in OWN_CHECKS], without


TAKES = {  # texts; rankings by name
    ("interp.explore", "prompts"): [["a text"]],
    ("interp.explore", "ranking"): [{}],
    ("interp.lens", "prompt"): ["a text"],
}


def cases():
    for name, function in FUNCTIONS.items():
        for parameter in inspect.signature(function).parameters:
            if hasattr(function, "is_public") and parameter in REMEDIES:
                yield pytest.param(function, parameter, TAKES.get((name, parameter), []), id=f"{name}-{parameter}")


@pytest.mark.parametrize(("function", "parameter", "taken"), cases())
def test_a_wrong_type_is_named_with_what_makes_the_right_one(function, parameter, taken):
    """Only this argument is looked at: the others are of any type that their own check lets by."""
    kind = _kinds(inspect.unwrap(function))[parameter]
    values, remedy = REMEDIES[parameter]
    look = public(one_parameter(parameter, kind))
    for value in values:
        if value in taken:
            assert look(value) == value
            continue
        if type(None) in getattr(kind, "__args__", ()) and value is None:
            assert look(value) is None
            continue
        with pytest.raises((WrongArgument, ValueError), match=parameter) as error:
            look(value)
        assert remedy in str(error.value), str(error.value)
        assert "expected" in str(error.value)


def one_parameter(name, kind):
    def look(*given):
        return given[0]

    look.__signature__ = inspect.Signature(
        [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=kind)]
    )
    return look


def prompt(seed: int = 0, n: int = 6, **answers) -> Prompt:
    ids = torch.randint(3, VOCABULARY, (n,), generator=torch.Generator().manual_seed(seed)).tolist()
    return Prompt.from_token_ids(ids, answers=answers or {"a": [5], "b": [9]})


@pytest.mark.parametrize("n", [np.int8(2), np.uint64(2), np.array(2), torch.tensor(2)], ids=repr)
def test_integers_of_every_kind_are_integers(llama, n):
    zero = interp.ablate_each_head("zero")
    want = interp.scan(llama, [prompt()], zero, positions=2)
    np.testing.assert_array_equal(interp.scan(llama, [prompt()], zero, positions=n).values, want.values)
    edit = HeadEdit(n, n, "scale", np.float16(0.5))
    assert (edit.layer, edit.head, edit.factor) == (2, 2, 0.5) and type(edit.layer) is int


def test_prompts_come_in_any_order_of_things(llama):
    zero, prompts = interp.ablate_each_head("zero"), [prompt(0), prompt(1)]
    want = interp.scan(llama, prompts, zero).values
    for given in (tuple(prompts), iter(prompts), (p for p in prompts), np.array(prompts, object), pd.Series(prompts)):
        np.testing.assert_array_equal(interp.scan(llama, given, zero).values, want)


@pytest.mark.parametrize("as_given", [list, tuple, np.array, pd.Series, lambda v: np.array(v, np.float64)])
def test_values_of_edits_come_as_arrays_and_lists(llama, as_given):
    value = [0.5, -1.0, 2.0, 0.25, 0.0, 1.5, -0.75, 3.0]
    width = [x / 8 for x in range(32)]
    edits = lambda head, stream: [  # noqa: E731
        Branch((HeadEdit(1, 2, "set", value=head),)),
        Branch((ResidualEdit(1, stream, coefficient=np.float32(0.5)),)),
    ]
    want = interp.scan(llama, [prompt()], edits(torch.tensor(value), torch.tensor(width))).values
    got = interp.scan(llama, [prompt()], edits(as_given(value), as_given(width))).values
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    "make",
    [
        lambda: HeadEdit(-1, 0),
        lambda: HeadEdit(0, True),
        lambda: HeadEdit(0.5, 0),
        lambda: HeadEdit(0, 0, "scale", float("inf")),
        lambda: HeadEdit(0, 0, "set", value=[[["deep"]]]),
        lambda: HeadEdit(0, 0, "set", value=["a", "b"]),
        lambda: HeadEdit(0, 0, "set", value=np.zeros((1, 2, 3))),
        lambda: ResidualEdit(-2, [1.0, 2.0]),
        lambda: ResidualEdit(0, [1.0, np.nan]),
        lambda: ResidualEdit(0, "a vector"),
        lambda: Branch("L0H1"),
        lambda: Branch([(0, 1)]),
        lambda: interp.ScaledHeads({}, factors={(-1, 0): 0.5}),
        lambda: interp.ScaledHeads({}, factors={(0, 0): "half"}),
        lambda: interp.scale_each_head("0.5"),
        lambda: interp.patch_each_head("a text"),
        lambda: interp.load(None),
        lambda: interp.load(3),
        lambda: Prompt.from_token_ids([1.5, 2]),
    ],
)
def test_edits_without_meaning_are_refused_when_they_are_made(make):
    with pytest.raises((TypeError, ValueError), match="expected"):
        make()


def test_heads_out_of_range_are_refused_where_they_meet_the_model(llama):
    for edit in (HeadEdit(4, 0), HeadEdit(0, 4), ResidualEdit(5, torch.ones(32))):
        with pytest.raises(ValueError, match="out of range"):
            interp.scan(llama, [prompt()], [Branch((edit,))])
    with pytest.raises(ValueError, match="out of range"), interp.ScaledHeads({}, factors={(9, 0): 0.0}).apply(llama):
        pass


def test_answers_that_no_logit_tells_apart_are_refused(llama):
    zero = interp.ablate_each_head("zero")
    for answers in ({"a": [5], "b": [5]}, {"a": [5, 7], "b": [9, 7]}):
        for measured in (lambda p: interp.scan(llama, [p], zero), lambda p: interp.attribute(llama, p)):
            with pytest.raises(ValueError, match="'a' and 'b' share the token"):
                measured(prompt(**answers))
    with pytest.raises(ValueError, match="share the token"):
        interp.scan(llama, [prompt()], zero, metric=LogitDifference("a", "a"))


def test_attribution_measures_what_a_scan_does_by_default(llama):
    want = interp.attribute(llama, prompt(), LogitDifference("a", "b"))
    assert interp.attribute(llama, prompt()).total == want.total


def test_a_missing_argument_is_named():
    with pytest.raises(TypeError, match=r"scan: missing .*'prompts'. It needs model, prompts, edits"):
        interp.scan(None)


def test_a_path_under_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    look = public(one_parameter("out", str | Path))
    assert str(look("~/run")) == str(tmp_path / "run") and look("~name") and str(look("run")) == "run"


def test_a_misspelt_argument_is_named(llama):
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'sytem'. Did you mean system\?"):
        llama.prompt("Is water wet?", sytem="Be brief.")
    with pytest.raises(TypeError, match=r"missing .*'text'. It needs text\.$"):
        llama.prompt()

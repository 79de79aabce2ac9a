"""What a public function says of itself: every parameter by its name, what it gives, what it raises, what it costs,
when it misleads, and where it is from. Public is what the five faces hand on, and what the reference documents."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from interp.door.moved import NAMES
from interp.rankings import registered

ROOT = Path(__file__).parents[1]
FACES = ("interp", "probes.harmfulness", "probes.negative_bias", "probes.latent_guard", "probes.visual_semantics")
PLAIN = {"self", "cls"}
CHECKING = re.compile(r"_?(require|refuse)_")  # names of what raises where something is wrong
NO_PASS = {  # take a model, and do not run it
    "build_prompts",
    "benchmark_examples",
    "photo_pair_examples",
    "saved_scene_examples",
    "scene_examples",
    "visual_examples",
    "load_control_vector",
    "load_guard",
    "describe_model",
    "heads_scaled",
    "projection",
    "current_rows",
    "rows_replaced",
    "branches",
    "examples",
    "check",
    "require_fits",
}


def public_functions(face: str) -> Iterator[tuple[str, Callable[..., Any], str]]:
    """Name, function and docstring of what a face hands on; of a class its constructor (told in the docstring of the
    class) and the methods that it defines in this project."""
    module = import_module(face)
    own = [n for n, v in vars(module).items() if n[0] != "_" and getattr(v, "__module__", "") == face]
    handed_on = {name: module for name in getattr(module, "__all__", own)}
    handed_on |= {name: import_module(room) for name, room in NAMES.get(face, {}).items()}  # public as before
    for name, place in handed_on.items():
        value = getattr(place, name)
        if inspect.isclass(value):
            if "__init__" in vars(value) or hasattr(value, "__dataclass_fields__"):
                yield f"{face}.{name}", value.__init__, inspect.getdoc(value) or ""
            if "__post_init__" in vars(value):
                yield f"{face}.{name}", value.__post_init__, inspect.getdoc(value) or ""
            for method, found in vars(value).items():
                function = getattr(found, "__func__", found)
                if not method.startswith("_") and inspect.isfunction(function):
                    yield f"{face}.{name}.{method}", function, inspect.getdoc(getattr(value, method)) or ""
        elif inspect.isfunction(value):
            yield f"{face}.{name}", value, inspect.getdoc(value) or ""


def unnamed(function: Callable[..., Any], told: str) -> list[str]:
    """Parameters that a docstring does not mention as a word."""
    names = [p.lstrip("*") for p in inspect.signature(function).parameters if p not in PLAIN]
    return [name for name in names if not name.startswith("_") and not re.search(rf"\b{re.escape(name)}\b", told)]


@pytest.mark.parametrize("face", FACES)
def test_every_parameter_is_named(face):
    found = {name: unnamed(function, told) for name, function, told in public_functions(face)}
    assert not {name: left for name, left in found.items() if left}


REFERENCE = re.findall(r"^::: (\S+)$", "\n".join(p.read_text() for p in (ROOT / "docs/reference").glob("*.md")), re.M)
ALL = sorted({*FACES, *REFERENCE, "interp.locating"})


@cache
def written(function: Callable[..., Any]) -> ast.FunctionDef | None:
    """The source of a function; None of one that dataclasses make."""
    try:
        lines, _ = inspect.getsourcelines(inspect.unwrap(function))
    except (OSError, TypeError):
        return None
    found = ast.parse(textwrap.dedent("".join(lines))).body[0]
    return found if isinstance(found, ast.FunctionDef) else None


def lacking(is_due: Callable[[str, ast.FunctionDef], bool], words: str) -> list[str]:
    """Public functions of which something is due, and not told."""
    found = []
    for face in ALL:
        for name, function, told in public_functions(face):
            source = written(function)
            if source is not None and is_due(name, source) and not re.search(words, told, re.M):
                found.append(name)
    return sorted(set(found))


def raises(_: str, function: ast.FunctionDef) -> bool:
    calls = (n.func for n in ast.walk(function) if isinstance(n, ast.Call))
    checks = any(CHECKING.match(getattr(c, "id", getattr(c, "attr", ""))) for c in calls)
    return checks or any(isinstance(n, ast.Raise) and n.exc is not None for n in ast.walk(function))


def test_what_is_raised_is_told():
    assert not lacking(raises, r"^Raises:$|^Raise ")


def test_arrays_are_told_with_axes_and_units():
    def gives_arrays(_: str, function: ast.FunctionDef) -> bool:
        given = "" if function.returns is None else ast.unparse(function.returns)
        return bool(re.search(r"(Float|Int|Bool)\[|ndarray|Tensor|^tuple\[", given))

    assert not lacking(gives_arrays, r"^Returns:")


def test_what_runs_the_model_tells_its_cost():
    def runs(name: str, function: ast.FunctionDef) -> bool:
        takes = {a.arg: a.annotation for a in [*function.args.args, *function.args.kwonlyargs]}
        is_model = takes.get("model") is not None and ast.unparse(takes["model"]).startswith("Model")
        return is_model and name.rpartition(".")[2] not in NO_PASS

    assert not lacking(runs, r"\bCosts?\b|\bpass(es)?\b")


MEASURED_BY = {
    "attention": "interp.reading.capture.attention_log_probs",
    "nas": "probes.negative_bias.rank_heads",
    "total_effect": "probes.negative_bias.rank_by_effect",
    "direct_effect": "probes.negative_bias.rank_by_effect",
    "direct": "probes.harmfulness.rank_writers",
    "effect": "probes.harmfulness.rank_writers",
    **dict.fromkeys(
        ("s_plus", "s_minus", "signed_drop", "mean_change", "floor", "yes_push"),
        "probes.visual_semantics.rank_visual_heads",
    ),
    **dict.fromkeys(("follows_hint", "plain_push"), "probes.visual_semantics.conflict.rank_conflict_heads"),
}
"""What computes a registered measure; measures of one name with an ending ("nas_swapped_order") go with the first."""

EVIDENCE = {
    *MEASURED_BY.values(),
    *(f"interp.{n}" for n in ("answer_mass", "attribute", "compare", "compare_rankings", "scan", "trace")),
    *(f"interp.locating.{n}" for n in ("learn_gates", "locate")),
    *(
        f"probes.harmfulness.{n}"
        for n in (
            "attack",
            "attack_by_finetuning",
            "compare_protocols",
            "find_suffixes",
            "fit_directions",
            "invert",
            "observe",
            "steering_sweep",
            "steering_test",
        )
    ),
    *(f"probes.requests.{n}" for n in ("judge_by_phrases", "separation_by_position", "surface_baselines")),
    "probes.visual_semantics.heads.claims_of",
    *(
        f"probes.negative_bias.{n}"
        for n in (
            "align",
            "answer",
            "bias_measures",
            "causal_test",
            "measure",
            "negative_attention_score",
            "order_swap",
            "scenarios",
            "sort_by_knowledge",
        )
    ),
    *(f"probes.latent_guard.{n}" for n in ("LatentGuard", "compare_guards", "latency")),
    *(
        f"probes.visual_semantics.{n}"
        for n in ("cross_level_ablation", "head_overlap", "modulate", "study_levels", "trace_pairs")
    ),
}
"""Functions whose numbers are read as evidence; the estimates of ``interp.statistics`` beside them."""


def evidence() -> Iterator[str]:
    yield from EVIDENCE
    for name, function, _ in public_functions("interp.statistics"):
        source = written(function)
        given = "" if source is None or source.returns is None else ast.unparse(source.returns)
        if name.count(".") == 2 and given in ("Estimate", "Interval", "SplitHalf", "TopKOverlap"):
            yield name


def test_every_measure_has_its_function():
    for face in FACES:
        assert list(public_functions(face))
    for name in registered():
        assert any(name == n or name.startswith(f"{n}_") for n in MEASURED_BY), name


@pytest.mark.parametrize("name", sorted(evidence()))
def test_evidence_says_when_it_misleads_and_where_it_is_from(name):
    face, _, function = name.rpartition(".")
    told = inspect.getdoc(getattr(import_module(face), function)) or ""
    assert "Misleads" in told and re.search(r"arXiv \d{4}\.\d{5}|^Sources?:|\bours\b", told, re.M)

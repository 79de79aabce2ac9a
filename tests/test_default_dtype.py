"""torch's default type is the user's affair: every number is what it is under float32."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
import torch

import interp
from interp import LogitDifference, Prompt
from interp.reading.capture import attention_log_probs, head_outputs
from probes.negative_bias.nas import score_prompts
from tests.tiny import VOCABULARY, tiny

ROOT = Path(__file__).parents[1]
MAKERS = {"empty", "zeros", "ones", "full", "rand", "randn", "eye", "linspace", "logspace"}


@pytest.fixture(params=[torch.float16, torch.bfloat16, torch.float64], ids=str)
def other(request):
    """A type to set as the default; what was the default comes back."""
    before = torch.get_default_dtype()
    yield request.param
    torch.set_default_dtype(before)


def prompts() -> list[Prompt]:
    ids = torch.randint(3, VOCABULARY, (3, 9), generator=torch.Generator().manual_seed(4)).tolist()
    spans = {"positive": (2,), "negative": (4,), "text": tuple(range(9)), "instruction": (1, 2, 3, 4)}
    return [Prompt(tuple(row), tuple(map(str, row)), spans=spans, answers={"Yes": (5,), "No": (9,)}) for row in ids]


def numbers(model) -> dict[str, np.ndarray]:
    given, metric = prompts(), LogitDifference("Yes", "No")
    rows = torch.linspace(-1, 1, 5 * 32, dtype=torch.float64).reshape(5, 32)
    direction = interp.Direction.from_tensors(rows.float(), model)
    found = {
        "logits": model.final_logits(given),
        "attention": torch.stack(attention_log_probs(model, given, [[8]] * 3, [[[2], [4]]] * 3)),
        "heads": torch.stack(head_outputs(model, given)),
        "attribution": torch.tensor(interp.attribute(model, given[0]).heads),
    }
    for how in ("zero", "mean_of_others", "mean"):
        for method in ("fan-out", "loop"):
            edits = interp.ablate_each_head(how)
            found[f"{how}, {method}"] = torch.tensor(interp.scan(model, given, edits, method=method).values)
    factors = torch.tensor(interp.scan(model, given, interp.scale_each_head(1 / 3), metric=metric, positions=2).values)
    found["scaled"] = factors
    for make in (interp.add_direction, interp.remove_direction):
        with make(direction, layers=[1, 2], while_generating=True).apply(model):
            found[make.__name__] = model.final_logits(given)
    with interp.ScaledHeads(interp.describe_model(model), factors={(1, 2): 1 / 3}).apply(model):
        found["factors"] = model.final_logits(given)
    return {name: np.asarray(value.double()) for name, value in found.items()}


def test_every_number_is_what_it_is_under_float32(llama, other):
    want = numbers(llama)
    torch.set_default_dtype(other)
    got = numbers(llama)
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, atol=2e-6, err_msg=name)


def test_a_model_loads_and_scores_nas_under_any_default(other):
    hf = tiny("llama")
    want = score_prompts(interp.load(hf), prompts(), "answer")
    torch.set_default_dtype(other)
    np.testing.assert_allclose(score_prompts(interp.load(hf), prompts(), "answer"), want, atol=2e-6)


def test_no_float_tensor_is_made_without_its_type():
    for path in [*(ROOT / "interp").glob("*.py"), *(ROOT / "probes").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {f"torch.{name}" for name in MAKERS}:
                named = {k.arg for k in node.keywords}
                unused = "device" in named and ast.unparse(node.args[0]) == "0"  # of no elements: is the device there?
                assert "dtype" in named or unused, f"{path.name}:{node.lineno}: {ast.unparse(node)[:80]}"

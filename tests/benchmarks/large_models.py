"""Which functions work on a model that is offloaded or quantised, as large ones are: the table of large_models.md.

    python -m tests.benchmarks.large_models

Every function is run on one tiny random Llama, loaded in each way. "yes": the numbers are those of the model in memory;
a quantised model's are its own, and its scans are checked against plain passes, as always. "loop": right, by one pass
for each edit. "refused": an error that says why. A test holds the committed table to what happens
(tests/interp/models/test_large_models.py).
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import pandas as pd
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

import interp
from interp.architecture import UnsupportedAttention
from interp.circuits import head_routes, patch_paths
from interp.fitting import HeadTuner, gradient_search
from interp.locating import estimate_removal, locate
from interp.pairs import PromptPairs
from interp.reading import attention_log_probs, attribute_heads, generate, head_kinds, head_outputs, residual_states
from interp.reports.markdown import write_page
from tests.tiny import prompt, tiny, tiny_tokenizer

PAGE = Path(__file__).with_name("large_models.md")
SHAPE = {"hidden_size": 64, "intermediate_size": 128, "vocab_size": 400}
METRIC = interp.LogitDifference("No", "Yes")
TOLERANCE = 1e-4


def in_memory(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def cpu_offload(folder: Path) -> Any:
    return accelerate.cpu_offload(in_memory(folder), execution_device=torch.device("cpu"))


def disk_offload(folder: Path) -> Any:
    return accelerate.disk_offload(in_memory(folder), folder / "offloaded", execution_device=torch.device("cpu"))


def split(folder: Path) -> Any:
    """As ``device_map="auto"`` leaves a model that does not fit: some layers there, some on the disk."""
    parts = {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.norm": "cpu", "lm_head": "cpu"}
    layers = {f"model.layers.{i}": "cpu" if i < 2 else "disk" for i in range(4)}
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, device_map={**parts, **layers}, offload_folder=folder / "split"
    )


def quantised(**bits: bool) -> Callable[[Path], Any]:
    def load(folder: Path) -> Any:
        config = BitsAndBytesConfig(**bits)
        return AutoModelForCausalLM.from_pretrained(
            folder, quantization_config=config, device_map="cpu", dtype=torch.float32
        )

    return load


WAYS: dict[str, Callable[[Path], Any]] = {
    "CPU offload": cpu_offload,
    "disk offload": disk_offload,
    "device_map over CPU and disk": split,
    "8-bit": quantised(load_in_8bit=True),
    "4-bit": quantised(load_in_4bit=True),
}


def prompts() -> list[interp.Prompt]:
    return [prompt(12), prompt(12, seed=1)]


def pairs() -> PromptPairs:
    rows = [list(p.token_ids) for p in prompts()]
    return PromptPairs.from_token_ids(rows, [[5, 9, *row[2:]] for row in rows], [(5, 7), (9, 8)])


def direction(model: interp.Model) -> interp.Direction:
    vectors = torch.randn(model.n_layers + 1, model.d_model, generator=torch.Generator().manual_seed(0))
    return interp.Direction.from_tensors(vectors, model)


def scan_of(model: interp.Model, edits: Any, **options: Any) -> tuple[np.ndarray, str]:
    found = interp.scan(model, prompts(), edits, metric=METRIC, read_mass=False, **options)
    return found.values, found.how


def steered(model: interp.Model) -> np.ndarray:
    with interp.add_direction(direction(model), layers=2, coefficient=3.0, while_generating=True).apply(model):
        return model.final_logits(prompts()).numpy()


def scaled(model: interp.Model) -> np.ndarray:
    with interp.ScaledHeads({}, factors={(1, 2): 0.0}).apply(model):
        return model.final_logits(prompts()).numpy()


def folded(model: interp.Model) -> np.ndarray:
    interp.ScaledHeads({}, factors={(1, 2): 0.0}).fold(model)
    return model.final_logits(prompts()).numpy()


def exported(model: interp.Model) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        interp.ScaledHeads({}, factors={(1, 2): 0.0}).export(model, Path(folder) / "out")
        return interp.load(AutoModelForCausalLM.from_pretrained(Path(folder) / "out")).final_logits(prompts()).numpy()


def tuned(model: interp.Model) -> np.ndarray:
    tuner = HeadTuner(model, 1, 2, prompts(), learning_rate=1e-2)
    tuner.step([0, 1])
    return tuner.rows[0].weight.float().numpy()


def paths(model: interp.Model) -> np.ndarray:
    return patch_paths(model, pairs(), [(0, 1)], [(2, 1)]).effects


def routes(model: interp.Model) -> np.ndarray:
    return head_routes(model, prompts(), {"first": [(0, 1)] * 2}, heads=[(1, 2)], metric=METRIC).lost


def factors(model: interp.Model) -> np.ndarray:
    return gradient_search(model, prompts(), steps=1, seed=0).factors


FUNCTIONS: dict[str, Callable[[interp.Model], Any]] = {
    "logits": lambda m: m.final_logits(prompts()).numpy(),
    "generate": lambda m: generate(m, [m.prompt("Is the sky blue?")], 4),
    "head outputs, residual states": lambda m: np.concatenate(
        [
            np.ravel(head_outputs(m, prompts())[0].float()),
            np.ravel(residual_states(m, prompts(), [[11]] * 2)),
        ]
    ),
    "attention (NAS)": lambda m: attention_log_probs(m, prompts(), [[11]] * 2, [[[3], [4]]] * 2)[0].numpy(),
    "scan, answer": lambda m: scan_of(m, interp.ablate_each_head("zero")),
    "scan, all positions": lambda m: scan_of(m, interp.ablate_each_head("mean_of_others"), positions="all"),
    "patch": lambda m: scan_of(m, interp.patch_each_head(prompts()[::-1])),
    "direct attribution": lambda m: attribute_heads(m, prompts(), METRIC),
    "gradient screen": lambda m: estimate_removal(m, prompts(), METRIC),
    "logit lens": lambda m: interp.lens(m, prompts()[0])["probability"].to_numpy(),
    "kinds of heads": lambda m: head_kinds(m).select_dtypes("number").to_numpy(),
    "locate (auto)": lambda m: locate(m, pairs(), "auto", warn=False).scores,
    "path patching": paths,
    "routes": routes,
    "steering applied": steered,
    "heads scaled": scaled,
    "edit exported": exported,
    "factors by gradient": factors,
    "one head tuned (NASA)": tuned,
    "weights' hash": lambda m: m.provenance()["weights_sha256"],
    "edit folded": folded,  # the last: it writes
}


def outcome(function: Callable[[interp.Model], Any], model: interp.Model, expected: Any) -> str:
    """What a function does on a model: "yes", "loop", or "refused", and what is wrong otherwise. ``expected``: its
    value in memory; None where the model's numbers are its own."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = function(model)
    except (ValueError, UnsupportedAttention):
        return "refused"
    except Exception as error:  # said in the table, and no refusal
        return f"BREAKS: {type(error).__name__}"
    how = found[1] if isinstance(found, tuple) else ""
    if expected is not None and not same(found, expected):
        return "WRONG"
    return "loop" if how == "loop" else "yes"


def same(found: Any, expected: Any) -> bool:
    if isinstance(found, tuple):
        found, expected = found[0], expected[0]
    if isinstance(found, np.ndarray):
        return bool(np.allclose(found, expected, atol=TOLERANCE, equal_nan=True))
    return found == expected


def outcomes() -> pd.DataFrame:
    """A row for each function, a column for each way."""
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder)
        tiny("llama", **SHAPE).save_pretrained(saved)
        tokenizer = tiny_tokenizer()

        def loaded(way: Callable[[Path], Any]) -> interp.Model:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return interp.load(way(saved), tokenizer=tokenizer)

        table, plain = pd.DataFrame({"function": list(FUNCTIONS)}), loaded(in_memory)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = {what: function(plain) for what, function in FUNCTIONS.items()}
        for name, way in WAYS.items():
            own, model = name.endswith("-bit"), loaded(way)
            table[name] = [
                outcome(function, model, None if own else expected[what]) for what, function in FUNCTIONS.items()
            ]
    return table


if __name__ == "__main__":
    what = (__doc__ or "").split("\n\n")[2].replace("\n", " ")
    page = {"How to read it": [what.strip()], "Table": outcomes()}
    write_page(PAGE, "Large models: what works offloaded and quantised", page)

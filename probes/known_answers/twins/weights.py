"""The trained twins' architectures, their heads, and their shipped weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from probes.known_answers.tasks import Task
from probes.known_answers.twins.tasks import BOS, END, TASKS

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DATA = Path(__file__).parent / "data"
ARCHITECTURES = ("llama", "gpt2", "qwen2")
"""By seed: twins of one task differ in architecture, in where their heads are, and in their training."""

N_HEADS, D_HEAD, D_FF = 6, 8, 64
N_SPARE = 2
"""The last heads of every layer write nothing (their rows of the output projection are 0): alterations use them."""


def twin_name(task: str, seed: int) -> str:
    return f"{task}-{ARCHITECTURES[seed % len(ARCHITECTURES)]}-{seed}"


def assigned_heads(task: Task, seed: int) -> dict[str, tuple[int, int]]:
    """Each variable's head (layer, head), drawn by the seed from those that are not spare."""
    rng = np.random.default_rng([seed, *task.name.encode()])
    free = {layer: list(rng.permutation(N_HEADS - N_SPARE)) for layer in range(task.n_layers)}
    return {name: (layer, int(free[layer].pop())) for name, layer in task.layers.items()}


def fresh_twin(task: Task, seed: int) -> PreTrainedModel:
    """The model before training: random weights, spare heads cut off."""
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    torch.manual_seed(seed)
    architecture = ARCHITECTURES[seed % len(ARCHITECTURES)]
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[architecture](**_settings(architecture, task)))
    return cut_spare_heads(model.float())


def cut_spare_heads(model: PreTrainedModel) -> PreTrainedModel:
    """Set what the spare heads write to 0, in place."""
    live = (N_HEADS - N_SPARE) * D_HEAD
    with torch.no_grad():
        for block in _blocks(model):
            if model.config.model_type == "gpt2":
                block.attn.c_proj.weight[live:] = 0
            else:
                block.self_attn.o_proj.weight[:, live:] = 0
    return model


def _blocks(model: PreTrainedModel) -> Any:
    return model.base_model.h if model.config.model_type == "gpt2" else model.base_model.layers


def _settings(architecture: str, task: Task) -> Mapping[str, Any]:
    d_model, n_tokens = N_HEADS * D_HEAD, len(task.vocabulary)
    special = dict(bos_token_id=BOS, eos_token_id=END, pad_token_id=None, tie_word_embeddings=False)
    if architecture == "gpt2":
        sizes = dict(n_embd=d_model, n_layer=task.n_layers, n_head=N_HEADS, n_inner=D_FF, n_positions=32)
        return {**sizes, **special, "vocab_size": n_tokens, "resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0}
    return {
        **special,
        "vocab_size": n_tokens,
        "hidden_size": d_model,
        "num_hidden_layers": task.n_layers,
        "num_attention_heads": N_HEADS,
        "num_key_value_heads": N_HEADS,
        "intermediate_size": D_FF,
        "max_position_embeddings": 64,
    }


def save_twin(model: PreTrainedModel, task: Task, seed: int, card: Mapping[str, Any], folder: Path = DATA) -> Path:
    """Write float16 weights and the card."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{twin_name(task.name, seed)}.safetensors"
    save_file({name: t.detach().half().contiguous() for name, t in model.state_dict().items()}, path)
    path.with_suffix(".json").write_text(json.dumps(dict(card), indent=1) + "\n", encoding="utf-8")
    return path


def build_twin(name: str, folder: Path = DATA) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The trained model in float32, and its card (task, seed, heads, how well it was trained)."""
    from safetensors.torch import load_file

    path = folder / f"{name}.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"there is no twin {name!r}; expected one of {', '.join(twin_names(folder))}.")
    card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    model = fresh_twin(TASKS[card["task"]], card["seed"])
    model.load_state_dict({key: t.float() for key, t in load_file(path).items()})
    return model.eval(), card


def twin_names(folder: Path = DATA) -> tuple[str, ...]:
    """Names of the shipped twins."""
    return tuple(sorted(path.stem for path in folder.glob("*.safetensors")))

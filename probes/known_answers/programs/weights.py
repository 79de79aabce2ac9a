"""The compiled programs as GPT-2 in transformers, and as tasks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from probes.known_answers.programs.listing import PROGRAMS
from probes.known_answers.programs.rasp import Program
from probes.known_answers.tasks import Rows, Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DATA = Path(__file__).parent / "data"


def build_program(name: str) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The compiled model in float32, and its card: vocabulary, heads, sizes."""
    from safetensors.numpy import load_file

    path = DATA / f"{name}.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"there is no program {name!r}; expected one of {', '.join(program_names())}.")
    card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    model = empty_program(card)
    stored, state = load_file(path), model.state_dict()
    with torch.no_grad():
        for key in {key.rpartition(".")[0] for key in stored}:
            places = torch.tensor(stored[f"{key}.places"], dtype=torch.long)
            state[key].view(-1)[places] = torch.tensor(stored[f"{key}.values"])
    return model, card


def empty_program(card: Mapping[str, Any]) -> PreTrainedModel:
    """A GPT-2 of a program's shape whose weights are all 0."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=len(card["vocabulary"]),
        n_positions=card["n_positions"],
        n_embd=card["n_heads"] * card["d_head"],
        n_layer=card["n_layers"],
        n_head=card["n_heads"],
        n_inner=card["d_ff"],
        activation_function="relu",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
        tie_word_embeddings=False,
    )
    config.is_causal = card["causal"]
    model = GPT2LMHeadModel(config).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    for block in model.transformer.h:
        block.attn.is_causal = card["causal"]  # what PyTorch's kernel goes by where there is no mask
    return model


def program_names() -> tuple[str, ...]:
    """Names of the shipped programs."""
    return tuple(name for name in PROGRAMS if (DATA / f"{name}.safetensors").is_file())


def program_task(program: Program, card: Mapping[str, Any]) -> Task:
    """The program as a causal model of its heads' outputs: what each gives, position by position."""
    vocabulary = tuple(card["vocabulary"])
    ids = {token: i for i, token in enumerate(vocabulary)}

    def run(rows: Rows, given: Mapping[str, np.ndarray]) -> list[dict[str, list[Any]]]:
        own = [{name: values[i] for name, values in given.items()} for i in range(len(rows))]
        return [program.run([vocabulary[t] for t in row[1:]], g) for row, g in zip(rows, own, strict=True)]

    def sample(n: int, rng: np.random.Generator) -> Rows:
        rows: list[list[int]] = []
        while len(rows) < n:
            tokens = program.sample(rng)
            if program.run(tokens)["answer"][-1] is not None:
                rows.append([0, *(ids[token] for token in tokens)])
        return np.array(rows)

    def variables(rows: Rows, given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        seen = run(rows, given)
        columns = {name: [one[name] for one in seen] for name in [*(head.name for head in program.heads), "answer"]}
        return {name: _table(values) for name, values in columns.items()}

    def answer(rows: Rows, values: Mapping[str, np.ndarray]) -> np.ndarray:
        return np.array([ids.get(f"={column[-1]}", -1) for column in values["answer"]])

    layers = {name: layer for name, (layer, _) in card["heads"].items()}
    return Task(program.name, program.question, vocabulary, layers, card["n_layers"], sample, variables, answer)


def _table(columns: list[list[Any]]) -> np.ndarray:
    table = np.full((len(columns), len(columns[0])), None, dtype=object)
    for row, column in zip(table, columns, strict=True):
        row[:] = column
    return table

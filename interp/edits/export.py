"""A model in memory as a directory that plain transformers loads with no code of ours, and a card that says what it is.

Weights may have biases that their architecture has no place for (a direction added by folding). They are written for
the architecture's own switch, where there is one, or as the Llama that computes the same.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
import transformers
from torch import nn

from interp.edits.identity import describe_model
from interp.models.loading import _quiet_unless_terminal
from interp.records import directory_beside, explained, holding

if TYPE_CHECKING:
    from interp.models import Model

Measures = pd.DataFrame | Sequence[str] | str | None

_SWITCHES = ("mlp_bias", "attention_bias")
_SAME_AS_LLAMA = ("qwen2", "mistral")  # but for biases, when no layer has a sliding window
_LLAMA_FIELDS = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "head_dim"),
    *("num_key_value_heads", "hidden_act", "max_position_embeddings", "rms_norm_eps", "rope_parameters", "dtype"),
    *("pad_token_id", "bos_token_id", "eos_token_id", "tie_word_embeddings", "initializer_range"),
)


@contextmanager
def new_directory(directory: str | Path) -> Iterator[Path]:
    """A temporary directory beside ``directory`` to fill; it gets that name at the end of the block, whole, or is gone.

    Raises ``FileExistsError`` for a directory with something in it, or that somebody else is writing, and ``OSError``
    with the remedy where the disk refuses."""
    directory = Path(directory)
    with holding(directory, as_whole=True), explained(directory):
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise FileExistsError(f"{directory} is not an empty directory. Give another, or delete it.")
        temporary = directory_beside(directory)
        try:
            yield temporary
            if directory.exists():
                directory.rmdir()
            os.chmod(temporary, 0o755)
            os.replace(temporary, directory)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def write_model(model: Model, directory: Path) -> str:
    """Write the weights as they are, the config, and the tokenizer (or processor), into an existing directory. Returns
    a sentence on what had to be rearranged; empty: nothing.

    Raises ``ValueError`` for weights that no transformers architecture has a place for.
    """
    standalone, note = _standalone(model.hf)
    written = {name: getattr(model.hf.config, name, None) for name in ("architectures", "dtype")}
    try:
        with _quiet_unless_terminal(), _settings_of_generation_apart(standalone, directory):
            standalone.save_pretrained(directory)
    finally:
        for name, before in written.items():  # transformers notes them in the config in memory too
            setattr(model.hf.config, name, before)
    for reader in (model.tokenizer, model.processor):
        if reader is not None:
            reader.save_pretrained(directory)
    return note


@contextmanager
def _settings_of_generation_apart(hf: nn.Module, directory: Path) -> Iterator[None]:
    """Write the generation config as it is at the end of the block. transformers would refuse to write many that it
    reads (a temperature with do_sample=False, as Llama-2-chat and Vicuna ship them): they are not ours to judge."""
    own = getattr(hf, "generation_config", None)
    if own is None:
        yield
        return
    hf.generation_config = type(own)()
    try:
        yield
        own.to_json_file(directory / "generation_config.json", use_diff=True, keys_to_pop=["compile_config"])
    finally:
        hf.generation_config = own


def read_plainly(model: Model, directory: Path) -> nn.Module:
    """The model in a directory as anyone's transformers reads it, in the dtype and on the device of ``model``."""
    with _quiet_unless_terminal():
        read = loader(model).from_pretrained(directory, dtype=model.dtype, local_files_only=True)
    return read.eval().to(model.device)


def loader(model: Model) -> type:
    """transformers' class that reads such a model from a directory."""
    return transformers.AutoModelForImageTextToText if model.has_vision else transformers.AutoModelForCausalLM


def card(
    model: Model,
    described: Mapping[str, Any],
    about: Mapping[str, Any],
    changes: Sequence[str],
    checked: str,
    measures: Measures,
) -> str:
    """The README of an edited model, in Markdown."""
    described = described or describe_model(model)
    name = described.get("name", model.name)
    parts = [
        f"# {name}, edited",
        f"Made by headscope from {name} (weights {described['weights_sha256']}). What was changed:",
        "\n".join(f"- {change}" for change in changes),
        f"Nothing else was changed. Checked: {checked}.",
        f"It is a plain transformers model: `{loader(model).__name__}.from_pretrained(directory)` loads it, with no "
        "code of headscope.",
    ]
    if measures is not None:
        parts += ["## What it does", _markdown(measures)]
    if about:
        parts += ["## Where the edit came from", "\n".join(f"- {key}: {_text(about[key])}" for key in about)]
    return "\n\n".join(parts) + "\n"


def _markdown(measures: pd.DataFrame | Sequence[str] | str) -> str:
    if isinstance(measures, str):
        return measures
    if not isinstance(measures, pd.DataFrame):
        return "\n".join(f"- {sentence}" for sentence in measures)
    rows = [list(measures.columns), ["---"] * measures.shape[1], *measures.itertuples(index=False)]
    return "\n".join("| " + " | ".join(_text(cell).replace("|", "\\|") for cell in row) + " |" for row in rows)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


def _standalone(hf: nn.Module) -> tuple[nn.Module, str]:
    """A model of a stock class that holds the weights (shared with ``hf``, not copied), and what was rearranged."""
    blank = _blank(type(hf), hf.config)
    extra = set(hf.state_dict()) - set(blank.state_dict())
    if not extra:
        return hf, ""
    if not all(name.endswith(".bias") for name in extra):
        raise ValueError(
            f"{type(hf).__name__} has weights that its config has no place for ({sorted(extra)[:3]} ...). Merge "
            "adapters first (merge_and_unload)."
        )
    for kind, config, switched in _candidates(hf):
        whole = _filled(_blank(kind, config), hf)
        if whole is not None:
            as_another = f"as {kind.__name__}, which computes the same, " if kind is not type(hf) else ""
            whole.generation_config = copy.deepcopy(hf.generation_config)
            names = " and ".join(f"{s}=True" for s in switched)
            return (
                whole,
                f"Written {as_another}with {names} in the config; the biases that this adds elsewhere are zero.",
            )
    raise ValueError(
        f"this edit gives biases to weights of {type(hf).__name__} that have none ({sorted(extra)[0]}). Its config has "
        "no switch for them, and it is no Llama but for biases, so plain transformers could not load it. Use apply(), "
        "or fold() in memory."
    )


def _candidates(hf: nn.Module) -> Iterator[tuple[type, Any, Sequence[str]]]:
    """Classes and configs that may have a place for more biases, and the switches turned on: its own, then Llama's."""
    for chosen in (("mlp_bias",), ("attention_bias",), _SWITCHES):
        own = copy.deepcopy(hf.config)
        of_text = own.get_text_config()
        if all(hasattr(of_text, switch) for switch in chosen):
            for switch in chosen:
                setattr(of_text, switch, True)
            yield type(hf), own, chosen
    config = hf.config
    has_windows = bool(set(getattr(config, "layer_types", None) or ()) - {"full_attention"}) or (
        config.model_type == "mistral" and config.sliding_window is not None
    )
    if config.model_type in _SAME_AS_LLAMA and not has_windows:
        fields = {name: getattr(config, name) for name in _LLAMA_FIELDS if hasattr(config, name)}
        for chosen in (("mlp_bias",), ("attention_bias",), _SWITCHES):
            yield (
                transformers.LlamaForCausalLM,
                transformers.LlamaConfig(**fields, **dict.fromkeys(chosen, True)),
                chosen,
            )


def _blank(kind: type, config: Any) -> nn.Module:
    """Without numbers: no memory."""
    with torch.device("meta"):
        return kind(copy.deepcopy(config))


def _filled(blank: nn.Module, hf: nn.Module) -> nn.Module | None:
    """``blank`` with the weights of ``hf``, and zeros for the biases that those lack; None where it has no place for
    one, or needs more."""
    state, places = hf.state_dict(), blank.state_dict()
    missing = set(places) - set(state)
    if set(state) - set(places) or not all(name.endswith(".bias") for name in missing):
        return None
    like = next(iter(state.values()))
    zeros = {name: torch.zeros(places[name].shape, dtype=like.dtype, device=like.device) for name in missing}
    blank.load_state_dict(state | zeros, assign=True)
    blank.tie_weights()
    return blank

"""What can be loaded: a decoder that gives logits over its vocabulary. Anything else is refused here, by what it is and
with what to load instead, before it fails deep inside."""

from __future__ import annotations

from typing import Any

from torch import nn

_HEADS = {
    "ForSequenceClassification": "a classifier of texts",
    "ForTokenClassification": "a classifier of tokens",
    "ForQuestionAnswering": "a reader that marks spans",
    "ForMultipleChoice": "a chooser among texts",
    "ForMaskedLM": "a masked language model: it reads both ways and fills gaps",
}


def require_language_model(hf: nn.Module) -> None:
    """Raise ``ValueError`` or ``TypeError`` unless this is a transformers model with a decoder alone, logits over a
    vocabulary, and weights in memory (or where accelerate keeps them)."""
    name = type(hf).__name__
    _refuse_bridges(hf, name)
    if not hasattr(hf, "get_output_embeddings"):
        return  # no model of transformers: the next step names the classes that are
    config = hf.config.get_text_config()
    for ending, what in _HEADS.items():
        if name.endswith(ending):
            raise ValueError(f"{name} is {what}; it gives no logits of a next token. {_remedy(config)}")
    if getattr(hf.config, "is_encoder_decoder", False) and not name.endswith("ForCausalLM"):
        raise ValueError(
            f"{name} is an encoder-decoder: it reads the prompt in one stack and answers in another, and names no "
            "blocks that do both; head scans need a decoder alone. Load one (Llama, Qwen, Gemma, GPT-2 ...)."
        )
    if hf.get_output_embeddings() is None and not _is_vision(hf):
        raise ValueError(
            f"{name} ({getattr(config, 'model_type', 'no model type')}) has no output embeddings: it gives no logits "
            f"over a vocabulary. {_remedy(config)}"
        )
    _require_weights(hf, name)


def _remedy(config: Any) -> str:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
        return "Load the same weights with a language model's head: AutoModelForCausalLM.from_pretrained."
    return "Load a causal language model (Llama, Qwen, Gemma, GPT-2 ...): this architecture has none."


def require_tokenizer(tokenizer: Any, where: str) -> None:
    """Raise ``ValueError`` for what transformers makes of a directory without tokenizer files: a tokenizer that has
    special tokens alone, and reads every text as nothing or as unknown."""
    if tokenizer is None or not callable(getattr(tokenizer, "get_vocab", None)):
        return
    vocabulary = set(tokenizer.get_vocab())
    if vocabulary <= set(tokenizer.all_special_tokens):
        raise ValueError(
            f"{where} has no tokenizer files: what transformers made of it ({type(tokenizer).__name__}) has "
            f"{len(vocabulary)} tokens, all of them special. Save the tokenizer there (tokenizer.save_pretrained), "
            "give tokenizer=, or load the model into memory and give that without one, for prompts of token ids."
        )


def _refuse_bridges(hf: nn.Module, name: str) -> None:
    if any(kind.__module__.startswith("transformer_lens.") for kind in type(hf).__mro__):
        raise TypeError(
            f"a {name} of TransformerLens was given. Scans run on a transformers model, and the loaded model has a "
            "bridge of its own (model.bridge). Give the transformers model itself, not wrapped: "
            "interp.load(AutoModelForCausalLM.from_pretrained(...)). A model that exists in TransformerLens alone "
            "(boot_native) has no such twin: work with its own run_with_hooks and run_with_cache, or train the same "
            "sizes as transformers' LlamaForCausalLM or GPT2LMHeadModel, which load here."
        )


def _is_vision(hf: nn.Module) -> bool:
    return getattr(hf.config, "vision_config", None) is not None


def _require_weights(hf: nn.Module, name: str) -> None:
    """Weights on the meta device have no numbers, unless accelerate brings them for each pass."""
    for path, module in hf.named_modules():
        if getattr(getattr(module, "_hf_hook", None), "weights_map", None) is not None:
            continue
        for part, parameter in module.named_parameters(recurse=False):
            if parameter.device.type == "meta" and getattr(module, "_hf_hook", None) is None:
                raise ValueError(
                    f"{name}: the weight {path}.{part} is on the meta device, without numbers. Load the weights "
                    "(from_pretrained), or let accelerate offload them (device_map='auto'), which brings them back."
                )

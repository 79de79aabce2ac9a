"""Tiny random models, one for each architecture that the scans are held to. No network, a fixed seed."""

from __future__ import annotations

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

import interp

VOCABULARY = 97
WINDOW = 12
NO, YES = 5, 7

_COMMON = dict(
    vocab_size=VOCABULARY,
    hidden_size=32,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=48,
    max_position_embeddings=128,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
_NO_GROUPS = {k: v for k, v in _COMMON.items() if k != "num_key_value_heads"}

CONFIGS: dict[str, tuple[str, dict]] = {
    "llama": ("llama", _COMMON),
    "qwen2": ("qwen2", _COMMON),
    "qwen3": ("qwen3", _COMMON | dict(head_dim=16)),
    "gemma2": ("gemma2", _COMMON | dict(head_dim=16, sliding_window=WINDOW, query_pre_attn_scalar=16)),
    "gemma3": (
        "gemma3_text",
        _COMMON | dict(head_dim=16, sliding_window=WINDOW, query_pre_attn_scalar=16, sliding_window_pattern=2),
    ),
    "mistral": ("mistral", _COMMON | dict(head_dim=16, sliding_window=WINDOW)),
    "phi3": ("phi3", _COMMON | dict(sliding_window=WINDOW)),
    "gpt2": (
        "gpt2",
        dict(
            vocab_size=VOCABULARY,
            n_embd=32,
            n_layer=4,
            n_head=4,
            n_positions=128,
            bos_token_id=1,
            eos_token_id=2,
        ),
    ),
    "gpt_neox": ("gpt_neox", _NO_GROUPS),
    "olmo2": ("olmo2", _COMMON),
}


def tiny(name: str, dtype: torch.dtype = torch.float32, seed: int = 0, **changes) -> PreTrainedModel:
    """A four-layer random model whose heads matter: weights scaled up so that effects are far above rounding."""
    kind, settings = CONFIGS[name]
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**settings | changes))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.25)
            else:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model.to(dtype).eval()


def prompt(length: int, seed: int = 0) -> interp.Prompt:
    """Random token ids with the answers No and Yes, for a model without tokenizer."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCABULARY, (length,), generator=generator).tolist()
    return interp.Prompt.from_token_ids(
        ids, answers={"No": [NO], "Yes": [YES]}, gold="Yes", id=f"random-{length}-{seed}"
    )


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CORPUS = [
    "Answer the question with Yes or No.\nQuestion: Is the sky blue on a clear day? Yes. No. Yesterday Nobody Note",
    "Context: the kettle boils water when it is heated. Question: can it do so without any heat? No or Yes.",
]


def tiny_tokenizer(template: str | None = CHATML, adds_bos: bool = False, trim_offsets: bool = False):
    """A byte-level BPE tokenizer of 400 tokens, trained here and now; ids 0..3 are pad, bos, eos, start."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    specials = ["<|pad|>", "<s>", "<|im_end|>", "<|im_start|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        CORPUS * 3,
        trainers.BpeTrainer(vocab_size=400, special_tokens=specials, initial_alphabet=alphabet, show_progress=False),
    )
    byte_level = processors.ByteLevel(trim_offsets=trim_offsets)
    bos = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)])
    tokenizer.post_processor = processors.Sequence([byte_level, bos] if adds_bos else [byte_level])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<|pad|>", bos_token="<s>", eos_token="<|im_end|>"
    )
    fast.chat_template = template
    return fast

"""GGUF files of many architectures: what the header says is what the model computes, or the file is refused."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path

import gguf as gguf_format
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoTokenizer

from interp.sources import conversions, gguf, resolve as sources
from interp.sources.gguf_tokens import keep_control_tokens

WORDS = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "Ye", "Yes", "<|start|>", "<|end|>", "<｜User｜>", "[INST]"]
TEMPLATE = "{% for m in messages %}<|start|>{{ m.role }}{{ m.content }}<|end|>{% endfor %}{{ '[INST]' }}<｜User｜>"
SIZES = dict(
    vocab_size=300,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADSCOPE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def make(kind: str, **changes):
    config = CONFIG_MAPPING[kind](**SIZES | changes)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(0.3 * noise) if parameter.ndim > 1 else parameter.add_(0.1 * noise)
    return model.eval()


def write(path: Path, model, architecture: str, header: dict, *, control: bool = True, without: tuple = ()) -> Path:
    """The model as llama.cpp's converter writes it; `header`: keys without the architecture, None to leave one out."""
    config, n_layers = model.config, model.config.num_hidden_layers
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    keys = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": n_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": size,
        "attention.value_length": size,
        "rope.dimension_count": size,
    } | header
    writer = gguf_format.GGUFWriter(path, architecture)
    for key, value in keys.items():
        name = key if key.startswith(("general.", "adapter.")) else f"{architecture}.{key}"
        if isinstance(value, bool):
            writer.add_bool(name, value)
        elif isinstance(value, int):
            writer.add_uint32(name, value)
        elif isinstance(value, float):
            writer.add_float32(name, value)
        elif isinstance(value, list):
            writer.add_array(name, value)
        elif value is not None:
            writer.add_string(name, value)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    words = WORDS + [f"[PAD{i}]" for i in range(len(WORDS), config.vocab_size)]
    writer.add_token_list(words)
    writer.add_token_types([3 if control and w in WORDS[-4:] else 1 for w in words])
    writer.add_token_merges(["Y e", "Ye s"])
    writer.add_bos_token_id(WORDS.index("<|start|>"))
    writer.add_eos_token_id(WORDS.index("<|end|>"))
    writer.add_chat_template(TEMPLATE)
    architectures = {name: key for key, name in gguf_format.MODEL_ARCH_NAMES.items()}
    names = gguf_format.get_tensor_name_map(architectures[architecture], n_layers)
    for name, weight in model.state_dict().items():
        if name in without or (name == "lm_head.weight" and config.tie_word_embeddings):
            continue
        array = weight.numpy()
        if architecture == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = array.shape[0] // size
            array = array.reshape(heads, 2, size // 2, -1).swapaxes(1, 2).reshape(array.shape)
        if "norm" in name and architecture.startswith("gemma"):
            array = array + 1
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")), np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def difference(model, path: Path) -> float:
    loaded = AutoModelForCausalLM.from_pretrained(sources.resolve(path).location).eval()
    tokens = torch.randint(3, 290, (1, 50), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return float((loaded(tokens).logits - model(tokens).logits).abs().max())


def rotary(base: float, share: float = 1.0) -> dict:
    parameters = {"rope_type": "default", "rope_theta": base}
    return {"rope_parameters": parameters | ({"partial_rotary_factor": share} if share != 1 else {})}


RMS, LAYER = "attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon"
BOTH = {"full_attention": {"rope_type": "default", "rope_theta": 3e5}}
RIGHT = {
    "llama, base of a key": ("llama", "llama", rotary(2e5), {"rope.freq_base": 2e5, RMS: 1e-6}),
    "llama, no base: 10000": ("llama", "llama", rotary(1e4), {RMS: 1e-6}),
    "llama, its own epsilon": ("llama", "llama", {"rms_norm_eps": 0.05}, {RMS: 0.05}),
    "qwen2, no base": ("qwen2", "qwen2", rotary(1e4), {RMS: 1e-6}),
    "qwen3, heads wider than the model": (
        "qwen3",
        "qwen3",
        {"head_dim": 16, "rms_norm_eps": 1e-3} | rotary(1e6),
        {RMS: 1e-3, "rope.freq_base": 1e6},
    ),
    "starcoder2, base and epsilon": (
        "starcoder2",
        "starcoder2",
        {"norm_epsilon": 0.02} | rotary(7e4),
        {LAYER: 0.02, "rope.freq_base": 7e4},
    ),
    "starcoder2, window": (
        "starcoder2",
        "starcoder2",
        {"sliding_window": 6} | rotary(1e4),
        {LAYER: 1e-5, "attention.sliding_window": 6},
    ),
    "stablelm, half rotated, base": (
        "stablelm",
        "stablelm",
        {"layer_norm_eps": 1e-5} | rotary(5e5, 0.5),
        {LAYER: 1e-5, "rope.freq_base": 5e5, "rope.dimension_count": 4},
    ),
    "phi3, window, share, base": (
        "phi3",
        "phi3",
        {"sliding_window": 9, "rms_norm_eps": 1e-5} | rotary(2e4, 0.5),
        {RMS: 1e-5, "attention.sliding_window": 9, "rope.dimension_count": 4, "rope.freq_base": 2e4},
    ),
    "gemma2, caps, window, head size as scale": (
        "gemma2",
        "gemma2",
        {"head_dim": 256, "sliding_window": 7, "attn_logit_softcapping": 3.0, "final_logit_softcapping": 5.0},
        {
            RMS: 1e-6,
            "attention.sliding_window": 7,
            "attn_logit_softcapping": 3.0,
            "final_logit_softcapping": 5.0,
        },
    ),
    "gemma3, two bases, layers by a pattern": (
        "gemma3_text",
        "gemma3",
        {
            "head_dim": 256,
            "sliding_window": 8,
            "layer_types": ["sliding_attention", "full_attention"],
            "rope_parameters": BOTH | {"sliding_attention": {"rope_type": "default", "rope_theta": 5e3}},
        },
        {
            RMS: 1e-6,
            "attention.sliding_window": 8,
            "attention.sliding_window_pattern": [True, False],
            "rope.freq_base": 3e5,
            "rope.freq_base_swa": 5e3,
        },
    ),
}


@pytest.mark.parametrize("case", RIGHT)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_header_is_what_the_model_computes(tmp_path, case):
    kind, architecture, changes, header = RIGHT[case]
    model = make(kind, **changes)
    assert difference(model, write(tmp_path / "tiny.gguf", model, architecture, header)) < 1e-3


REFUSED = {
    "a window that Llama has not": ("llama", {"attention.sliding_window": 16}, r"sliding_window = 16.*no window"),
    "a scale": ("llama", {"attention.scale": 0.5}, "attention scale is 0.35.*header says 0.5"),
    "caps": ("llama", {"attn_logit_softcapping": 20.0}, "attn_logit_softcapping = 20.*no such number"),
    "logits scaled": ("llama", {"logit_scale": 0.0625}, r"logit_scale = 0\.0625"),
    "the stream scaled": ("llama", {"residual_scale": 0.2}, r"residual_scale = 0\.2"),
    "experts": ("llama", {"expert_count": 8, "expert_used_count": 2}, "expert_count = 8"),
    "reads both ways": ("llama", {"attention.causal": False}, "causal = False"),
    "half a head rotated": ("llama", {"rope.dimension_count": 4}, r"rotary frequencies aren't .*\(base 10000, 4 of 8"),
    "values of another size": ("llama", {"attention.value_length": 4}, "value_length = 4"),
    "heads of several sizes": ("llama", {"attention.head_count": [4, 2]}, "one number for all layers"),
    "queries limited": ("llama", {"attention.clamp_kqv": 6.0}, "clamp_kqv = 6"),
    "an adapter": ("llama", {"general.type": "adapter", "adapter.type": "lora"}, "holds 'adapter', not a model"),
    "no sizes": ("llama", {"block_count": None, "embedding_length": None}, r"block_count, llama\.embedding_length"),
    "more than is there": ("llama", {"block_count": 400}, "sizes are of a model of .* file holds"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_header_that_transformers_would_not_follow_is_refused(tmp_path, cache, case):
    architecture, header, message = REFUSED[case]
    path = write(tmp_path / "tiny.gguf", make("llama"), architecture, {RMS: 1e-6} | header)
    with pytest.raises(ValueError, match=message) as caught:
        sources.resolve(path)
    assert str(path) in str(caught.value)
    assert not list(cache.rglob("*.safetensors"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_gemma_whose_scale_no_key_gives_is_refused(tmp_path):
    model = make("gemma2", head_dim=16, query_pre_attn_scalar=144)
    with pytest.raises(ValueError, match="doesn't say the attention scale"):
        sources.resolve(write(tmp_path / "tiny.gguf", model, "gemma2", {RMS: 1e-6}))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_keys_that_mean_nothing_here_are_named(tmp_path):
    path = write(tmp_path / "tiny.gguf", make("llama"), "llama", {RMS: 1e-6, "altup.active_idx": 3, "token_shift": 2})
    with pytest.warns(UserWarning, match=r"LlamaConfig answers to altup.active_idx = 3; token_shift = 2"):
        sources.resolve(path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("control", [True, False])
def test_markers_of_the_template_are_one_token_each(tmp_path, control):
    path = write(tmp_path / "tiny.gguf", make("llama"), "llama", {RMS: 1e-6}, control=control)
    tokenizer = AutoTokenizer.from_pretrained(sources.resolve(path).location)
    text = tokenizer.apply_chat_template([{"role": "u", "content": "Yes"}], tokenize=False)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    wanted = ["<|start|>", "u", "Yes", "<|end|>", "[INST]", "<｜User｜>"]
    assert ids == [WORDS.index(word) for word in wanted]


def test_a_marker_that_stays_in_pieces_stops_the_loading(monkeypatch):
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(WORDS)}
    backend = Tokenizer(models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    tokenizer.chat_template = "{{ '<|start|>' }}"
    monkeypatch.setattr(PreTrainedTokenizerFast, "add_tokens", lambda self, *args, **kwargs: 0)
    with pytest.raises(ValueError, match=r"'<\|start\|>', one entry of the vocabulary"):
        keep_control_tokens(tokenizer)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_conversion_is_believed_by_its_hash(tmp_path, monkeypatch):
    path = write(tmp_path / "tiny.gguf", make("llama"), "llama", {RMS: 1e-6})
    place = Path(sources.resolve(path).location)
    (place / conversions.VERIFIED_FILE).unlink()  # as in a copy
    read = []
    real = conversions.sha256_of
    monkeypatch.setattr(conversions, "sha256_of", lambda file: read.append(file.name) or real(file))
    assert conversions.read_provenance(place) and "model.safetensors" in read
    read.clear()
    assert conversions.read_provenance(place) and read == []  # nothing changed: nothing is read again
    weights = place / "model.safetensors"
    whole = weights.read_bytes()
    status = weights.stat()
    weights.write_bytes(whole[:-8] + bytes([whole[-8] ^ 1]) + whole[-7:])
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))  # the same size and time
    assert conversions.read_provenance(place) is None
    assert Path(sources.resolve(path).location) == place and weights.read_bytes() == whole  # made again
    (place / conversions.VERIFIED_FILE).write_text("[" * 100_000)
    assert conversions.read_provenance(place)
    record = json.loads((place / conversions.PROVENANCE_FILE).read_text())
    (place / conversions.PROVENANCE_FILE).write_text(json.dumps(record | {"files": [1]}))
    assert conversions.read_provenance(place) is None


def raw_header(*entries: bytes) -> bytes:
    count = len(entries).to_bytes(8, "little")
    return b"GGUF" + (3).to_bytes(4, "little") + (0).to_bytes(8, "little") + count + b"".join(entries)


def text(value: str) -> bytes:
    return len(value).to_bytes(8, "little") + value.encode()


def number(value: int, n_bytes: int = 4) -> bytes:
    return value.to_bytes(n_bytes, "little")


NESTED = text("a") + number(9) + (number(9) + number(1, 8)) * 20_000
ARCHITECTURE = text("general.architecture") + number(8) + text("llama")
DAMAGED = {
    "arrays in arrays": raw_header(NESTED),
    "a type that there is not": raw_header(text("a") + number(99) + number(1)),
    "an array without end": raw_header(text("a") + number(9) + number(8) + number(2**60, 8)),
    "a string without end": raw_header(number(2**60, 8)),
    "a key twice": raw_header(ARCHITECTURE, ARCHITECTURE),
    "no tensors, no sizes": raw_header(ARCHITECTURE),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_headers_are_one_sentence(tmp_path, case):
    path = tmp_path / "tiny.gguf"
    path.write_bytes(DAMAGED[case])
    with pytest.raises(ValueError, match=r"tiny\.gguf"):
        gguf.check_gguf(path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_transformers_reader_trips_over_is_one_sentence(tmp_path, monkeypatch):
    path = write(tmp_path / "tiny.gguf", make("llama"), "llama", {RMS: 1e-6})
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda *args, **kwargs: {}["merges"])
    with (
        warnings.catch_warnings(),
        pytest.raises(ValueError, match=r"tiny\.gguf: transformers .* \(KeyError: 'merges'"),
    ):
        sources.resolve(path)

"""What people type for a model that is not there under this name, and what a folder or file lacks: sentences that say
where the model is, or what to type. Nothing here asks a network."""

from __future__ import annotations

import contextlib
import difflib
import re
from pathlib import Path

_GATED = ("meta-llama", "google", "mistralai", "CohereLabs")

# What a model's users call it, and its id on the hub. Sizes and versions that are not here are found there by search.
HUB_IDS = {
    "gpt2": "openai-community/gpt2",
    "gpt2-small": "openai-community/gpt2",
    "gpt-2": "openai-community/gpt2",
    "gpt2-medium": "openai-community/gpt2-medium",
    "gpt2-large": "openai-community/gpt2-large",
    "gpt2-xl": "openai-community/gpt2-xl",
    "distilgpt2": "distilbert/distilgpt2",
    "gpt-j": "EleutherAI/gpt-j-6b",
    "gpt-neo": "EleutherAI/gpt-neo-125m",
    "gpt-neox": "EleutherAI/gpt-neox-20b",
    "pythia": "EleutherAI/pythia-160m",
    "opt": "facebook/opt-125m",
    "bloom": "bigscience/bloom-560m",
    "tinyllama": "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
    "llama": "meta-llama/Llama-3.2-1B-Instruct",
    "llama2": "meta-llama/Llama-2-7b-chat-hf",
    "llama-2": "meta-llama/Llama-2-7b-chat-hf",
    "llama3": "meta-llama/Llama-3.1-8B-Instruct",
    "llama-3": "meta-llama/Llama-3.1-8B-Instruct",
    "vicuna": "lmsys/vicuna-7b-v1.5",
    "mistral": "mistralai/Mistral-7B-Instruct-v0.3",
    "mixtral": "mistralai/Mixtral-8x7B-Instruct-v0.1",
    "gemma": "google/gemma-2-2b-it",
    "gemma2": "google/gemma-2-2b-it",
    "gemma3": "google/gemma-3-1b-it",
    "phi": "microsoft/Phi-3-mini-4k-instruct",
    "phi3": "microsoft/Phi-3-mini-4k-instruct",
    "qwen": "Qwen/Qwen2.5-0.5B-Instruct",
    "qwen2": "Qwen/Qwen2.5-0.5B-Instruct",
    "qwen2.5": "Qwen/Qwen2.5-0.5B-Instruct",
    "qwen3": "Qwen/Qwen3-0.6B",
    "smollm": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "smollm3": "HuggingFaceTB/SmolLM3-3B",
    "olmo": "allenai/OLMo-2-0425-1B-Instruct",
    "falcon": "tiiuae/falcon-7b-instruct",
    "deepseek": "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
    "granite": "ibm-granite/granite-3.3-2b-instruct",
    "llava": "llava-hf/llava-1.5-7b-hf",
}


def on_the_hub(name: str) -> str:
    """Where the model that people call so is; empty if that is not known."""
    wanted = name.casefold().replace("_", "-").replace(" ", "-")
    family = max((known for known in HUB_IDS if wanted.startswith(known)), key=len, default="")
    if not family:
        return ""
    hub_id = HUB_IDS[family]
    owner = hub_id.split("/")[0]
    licence = " (its licence must be accepted there, and `hf auth login` done)" if owner in _GATED else ""
    if wanted == family:
        return f" On the hub it is {hub_id!r}{licence}: load it by that id, which downloads it."
    return f" Such models are on the hub under {owner!r}, like {hub_id!r}{licence}: load it by its full id, org/name."


def require_a_name(text: str, is_path: bool) -> None:
    """Raise ``ValueError`` for an address, a file inside a repository, or nothing."""
    if not is_path and (instead := not_a_name(text)):
        raise ValueError(instead)


def not_a_name(text: str) -> str:
    """What to type instead of an address, or of a file inside a repository; empty if the text is neither."""
    if not text.strip():
        return "the model's name is empty. Give a built-in name, a hub id org/name, a directory or a .gguf file."
    address = re.match(r"(?:\w+://|www\.|(?:huggingface\.co|hf\.co)/)(.*)", text.strip())
    rest = address.group(1) if address else text
    if address:
        rest = re.sub(r"^(www\.)?(huggingface\.co|hf\.co)/", "", rest)
        hub = rest != address.group(1) or "huggingface.co/" in text or "hf.co/" in text
        if not hub:
            return f"{text!r} is an address, and nothing is fetched from there. Download it, and give its file."
    parts = [part for part in rest.split("?")[0].split("/") if part]
    file = parts[-1] if parts and parts[-1].lower().endswith(".gguf") else ""
    is_here = text.startswith((".", "~", "/")) or Path(parts[0] if parts else "").exists()  # a path, with a typo
    if file and len(parts) >= 3 and (address or not is_here):
        repository = "/".join(parts[:2])
        inside = re.sub(r"^(resolve|blob)/[^/]+/", "", "/".join(parts[2:]))
        return (
            f"{text!r} is a file of the repository {repository} on the hub, which is not fetched for you. Download it, "
            f"`hf download {repository} {inside} --local-dir .`, and give the file: {file!r}."
        )
    if address:
        named = "/".join(parts[:2])
        return f"{text!r} is an address; give the hub id" + (f", {named!r}." if len(parts) >= 2 else ", org/name.")
    return ""


def not_a_model_file(path: Path) -> str:
    """Why a file is no model that can be loaded, and what to give."""
    if path.suffix.lower() in (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".json"):
        return (
            f"{path} is neither a model directory nor a .gguf file, but one file of a model; give the directory that "
            "holds it beside its config.json, as `save_pretrained` writes it."
        )
    if path.suffix.lower() in (".zip", ".tar", ".gz", ".tgz", ".whl"):
        return f"{path} is an archive; unpack it, and give the model directory or the .gguf file in it."
    return f"{path} is neither a model directory nor a .gguf file; name one of these"


def require_model_directory(path: Path) -> None:
    """Raise ``ValueError`` for a directory that transformers could not load a model from, saying what it is."""
    names = {file.name for file in path.iterdir()}
    ggufs = sorted(name for name in names if name.lower().endswith(".gguf"))
    if "config.json" not in names:
        hint = "give a directory that `save_pretrained` wrote"
        if ggufs:
            hint = f"it has GGUF files; name one: {', '.join(str(path / name) for name in ggufs[:5])}"
        elif "adapter_config.json" in names:
            hint = "it holds a PEFT adapter; merge it into its base model and save that"
        elif "model_index.json" in names:
            hint = "it holds a pipeline for images (diffusers); give a language model's directory"
        elif names & {"tokenizer.json", "tokenizer_config.json", "tokenizer.model"} and not _weights(names):
            hint = "it holds a tokenizer alone; give the model's directory"
        elif "params.json" in names:
            hint = "its weights are in their maker's own format; convert them for transformers, or take the hub's copy"
        elif not names:
            hint = "it is empty"
        elif inner := sorted(file.parent.name for file in path.glob("*/config.json"))[:3]:
            hint = f"name the directory inside it: {', '.join(str(path / name) for name in inner)}"
        raise ValueError(f"{path} has no config.json, so it isn't a model directory: {hint}")
    if not _weights(names):
        raise ValueError(f"{path} has a config.json but no weights (no .safetensors, no pytorch_model.bin)")


def _weights(names: set[str]) -> list[str]:
    return [name for name in names if re.fullmatch(r".*\.safetensors|pytorch_model.*\.bin", name)]


def neighbours(path: Path) -> str:
    """What stands beside a path that does not exist and has a name like it."""
    with contextlib.suppress(OSError):
        there = [file.name for file in path.parent.iterdir() if file.is_dir() or file.suffix.lower() == ".gguf"]
        if matches := difflib.get_close_matches(path.name, there, n=3, cutoff=0.5):
            return f" Did you mean {' or '.join(str(path.parent / match) for match in matches)}?"
    return ""

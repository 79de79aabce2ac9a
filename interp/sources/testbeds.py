"""Two small vision-language models that travel with the package: LLaVA's architecture, trained on drawn scenes.

Their weights are float16 safetensors under `interp/data/<name>`, with a model card each, and are checked against a
pinned SHA-256. `scenes-llava-tiny` is whole as it ships. `scenes-smollm2` ships what was trained (vision tower,
projector, low-rank changes of the attention weights) and is put together with SmolLM2-135M-Instruct the first time.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from interp.sources.conversions import PROVENANCE_FILE, sha256_of, write_record

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerBase

DATA = Path(__file__).with_name("testbeds_data")
IMAGE_TOKEN = "<image>"
ADAPTED = ("q_proj", "k_proj", "v_proj", "o_proj")  # the weights that low-rank changes may stand beside


@dataclass(frozen=True)
class Testbed:
    """A shipped model. `language_model`: the built-in model that its weights are merged into; None: it is whole."""

    __test__ = False  # not a test class, whatever its name says to pytest

    name: str
    description: str
    weights: str
    sha256: str
    language_model: str | None = None
    assembled_mb: int = 0
    licence: str = "Apache-2.0"
    download_mb: int = 0

    @property
    def is_whole(self) -> bool:
        return self.language_model is None

    @property
    def shipped(self) -> Path:
        return DATA / self.name

    @property
    def directory_name(self) -> str:
        return f"{self.name}-{self.sha256[:12]}"  # new weights never meet an old directory

    @property
    def facts(self) -> dict[str, Any]:
        """Where the weights come from, in JSON types, for the provenance of results."""
        return {"name": self.name, "licence": self.licence, "weights_sha256": self.sha256}


_TESTBEDS = (
    Testbed(
        name="scenes-llava-tiny",
        description="LLaVA architecture, 4 layers x 8 heads, d_model 128: answers questions on easy drawn scenes",
        weights="model.safetensors",
        sha256="b500b11275788b356c4a60d4ceedcbc8de2f82ef1a6e354bcdf4f3f10e7b6c7e",
    ),
    Testbed(
        name="scenes-smollm2",
        description="LLaVA architecture around SmolLM2-135M-Instruct, 30 layers x 9 heads (3 KV): drawn scenes",
        weights="adapter.safetensors",
        sha256="7b14194f47330c2f346148c5c661509e77a942cb1c8868d7a5ace32129e3de43",
        language_model="smollm2-135m",
        download_mb=93,  # of the language model, unless it is there already
        assembled_mb=550,
    ),
)

TESTBEDS: Mapping[str, Testbed] = MappingProxyType({testbed.name: testbed for testbed in _TESTBEDS})


def check_weights(testbed: Testbed) -> None:
    """Raise `ValueError` unless the shipped weights are those that were pinned. Costs milliseconds."""
    path = testbed.shipped / testbed.weights
    if not path.is_file():
        raise ValueError(
            f"{testbed.name}: {path.name} is missing from the installed package; install headscope again, or "
            "train it anew (tests/benchmarks in the repository)"
        )
    found = sha256_of(path)
    if found != testbed.sha256:
        raise ValueError(
            f"{testbed.name}: expected SHA-256 {testbed.sha256} of {path.name}, found {found}. The installed copy "
            "is damaged or was changed: install headscope again, or load changed weights by their directory."
        )


def assemble(testbed: Testbed, language_model: Path, target: Path) -> None:
    """Write the testbed around the language model of the directory `language_model` into the new directory `target`.

    What comes out is an ordinary float32 LLaVA directory with its processor: nothing of the low-rank form is left.
    Costs twice the model in memory for a moment, and about 5 s for SmolLM2-135M.
    """
    from safetensors.torch import load_file

    check_weights(testbed)
    trained = load_file(testbed.shipped / testbed.weights)
    model = around_language_model(language_model, json.loads((testbed.shipped / "config.json").read_text("utf-8")))
    insert_trained(model, trained)
    target.mkdir(parents=True)
    model.save_pretrained(target)
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    image_tokenizer(language_model).save_pretrained(target)
    for name in ("processor_config.json", "chat_template.jinja"):
        shutil.copyfile(testbed.shipped / name, target / name)
    facts = {
        **testbed.facts,
        "language_model": _record_of(language_model),
        "n_parameters": n_parameters,
        "dtype": "float32",
        "converted_with": {package: version(package) for package in ("torch", "transformers")},
        "converted_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_record(target, facts)


def image_tokenizer(language_model: str | os.PathLike[str]) -> PreTrainedTokenizerBase:
    """The language model's tokenizer with one token more, `<image>`."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(language_model, local_files_only=True)
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN]}, replace_extra_special_tokens=False)
    for key in ("local_files_only", "is_local"):  # of this call, not of the tokenizer
        tokenizer.init_kwargs.pop(key, None)
    return tokenizer


def around_language_model(
    language_model: str | os.PathLike[str], config: Mapping[str, Any]
) -> LlavaForConditionalGeneration:
    """A LLaVA model in float32 with a language model's weights in it; tower and projector are fresh.

    The embedding (tied to the unembedding) gets one row more, for `<image>`: the mean of the others.
    """
    import torch
    from transformers import AutoModelForCausalLM, LlavaConfig, LlavaForConditionalGeneration

    text = AutoModelForCausalLM.from_pretrained(language_model, dtype=torch.float32, local_files_only=True)
    settings = {**text.config.to_dict(), "vocab_size": text.config.vocab_size + 1}
    llava = LlavaConfig(**{**config, "text_config": settings, "image_token_index": text.config.vocab_size})
    model = LlavaForConditionalGeneration(llava).float()
    weights = text.model.state_dict()
    embedding = weights["embed_tokens.weight"]
    weights["embed_tokens.weight"] = torch.cat([embedding, embedding.mean(dim=0, keepdim=True)])
    model.model.language_model.load_state_dict(weights)
    model.tie_weights()
    return model.eval()


def insert_trained(model: LlavaForConditionalGeneration, trained: Mapping[str, Tensor]) -> None:
    """Put tower and projector in their places and add the low-rank changes: W becomes W + B A, in float32.

    Keys: `vision_tower.*` and `multi_modal_projector.*` as in the model; `lora.{layer}.{q_proj}.a` [rank, d_in] and
    `.b` [d_out, rank], the latter already multiplied by LoRA's scale (Hu et al. 2021, arXiv 2106.09685, section 4.1).
    """
    import torch

    inner, used = model.model, set()
    for part in ("vision_tower", "multi_modal_projector"):
        own = {key.removeprefix(f"{part}."): t.float() for key, t in trained.items() if key.startswith(f"{part}.")}
        getattr(inner, part).load_state_dict(own)
        used |= {f"{part}.{key}" for key in own}
    with torch.no_grad():
        for number, layer in enumerate(inner.language_model.layers):
            for name in ADAPTED:
                a, b = f"lora.{number}.{name}.a", f"lora.{number}.{name}.b"
                if a in trained:
                    getattr(layer.self_attn, name).weight += trained[b].float() @ trained[a].float()
                    used |= {a, b}
    if left := sorted(set(trained) - used):
        raise ValueError(f"{len(left)} of the trained weights have no place in the model: {', '.join(left[:5])}")


def _record_of(language_model: Path) -> dict[str, Any]:
    record = json.loads((language_model / PROVENANCE_FILE).read_text(encoding="utf-8"))
    return {key: record[key] for key in ("name", "packages", "gguf_sha256") if key in record}

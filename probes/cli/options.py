"""Options that go together: the model, and the data of each kind of study. Keep, of the interface, is another."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import typer
from rich.console import Console

from probes.cli.declaring import Option
from probes.rows import Reading

if TYPE_CHECKING:
    from interp.models import Model
    from probes.prompt_pairs import PairRow
    from probes.questions import Question
    from probes.visual_semantics.questions import VisualSource

DTYPES = ("float32", "bfloat16", "float16", "float64", "auto")
REFUSES = "qwen2.5-coder-0.5b"
"""The built-in model that refuses harmful requests. The smallest one, smollm2-135m, refuses next to nothing."""


@dataclass(frozen=True)
class ChatModel:
    """Which model is asked through its chat template."""

    panel: ClassVar[str] = "Model"
    model: str = REFUSES
    dtype: str = "float32"
    device: str | None = None
    template: list[str] | None = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise typer.BadParameter(f"{self.dtype!r}; expected {', '.join(DTYPES)}", param_hint="--dtype")
        _ = self.template_arguments

    @property
    def chat(self) -> bool:
        return True

    @property
    def template_arguments(self) -> dict[str, Any]:
        """What ``--template`` tells."""
        return told_template(self.template)

    def load(self, template_arguments: Mapping[str, Any] | None = None) -> Model:
        """The model. ``template_arguments``: of an earlier run that goes on, in place of ``--template``'s."""
        import interp

        told = self.template_arguments if template_arguments is None else dict(template_arguments)
        return interp.load(
            self.model, dtype=self.dtype, device=self.device, chat=self.chat, template_arguments=told or None
        )

    def require_known(self) -> None:
        """Refuse a name that stands for no model, before anything is imported for it."""
        from interp.sources import BUILTIN, TESTBEDS
        from interp.sources.resolve import resolve

        is_file = Path(self.model).suffix.lower() == ".gguf" and Path(self.model).expanduser().is_file()
        if self.model not in BUILTIN and self.model not in TESTBEDS and not is_file:  # whose hash takes a while
            resolve(self.model)

    def say_download(self) -> None:
        """On stderr: what is fetched before the work, and how large it is."""
        from interp.sources import describe_sources

        for source in describe_sources():
            if source.name == self.model and not source.cached and source.download_mb >= 1:
                say(f"{self.model} is not here yet: {source.download_mb:.0f} MB are downloaded first, once.")


@dataclass(frozen=True)
class ModelOptions(ChatModel):
    """Which model is asked, with its chat template or without."""

    model: str = "smollm2-135m"
    no_chat: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.template and self.no_chat:
            raise typer.BadParameter("no template reads it with --no-chat", param_hint="--template")

    @property
    def chat(self) -> bool:
        return not self.no_chat


@dataclass(frozen=True)
class VisualModel(ModelOptions):
    """Which vision-language model is asked."""

    model: str = "scenes-smollm2"


@dataclass(frozen=True)
class TinyVisualModel(ModelOptions):
    """The same, small enough for traces in seconds."""

    model: str = "scenes-llava-tiny"


@dataclass(frozen=True)
class Data:
    """What data of every kind have."""

    panel: ClassVar[str] = "Data"

    @property
    def sources(self) -> list[str]:
        return []

    @property
    def reading(self) -> Reading:
        return read_as(getattr(self, "format", None), getattr(self, "column", None))

    def origin(self) -> dict[str, Any]:
        """Where the data come from, for provenance: the same on another machine."""
        if not self.sources:
            return {}
        names = [source if source == "builtin" else Path(source).name for source in self.sources]
        given = {"source": names[0] if len(names) == 1 else names}
        given |= {name: getattr(self, name) for name in ("limit", "seed")}
        return given | self.reading.settings()


@dataclass(frozen=True)
class QuestionData(Data):
    """Yes/no questions of one source."""

    data: str = "builtin"
    column: list[str] | None = None
    format: str | None = None
    limit: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        require_files(self.reading, self.sources)

    @property
    def sources(self) -> list[str]:
        return [self.data]

    def questions(self, sampled: bool = True) -> list[Question]:
        """The questions; ``sampled``: at most ``limit`` of them."""
        from probes.questions import load_questions

        limit, how = self.limit if sampled else None, self.reading
        return load_questions(self.data, limit=limit, seed=self.seed, format=how.format, columns=how.columns)


@dataclass(frozen=True)
class PairData(Data):
    """Pairs of prompts of one file."""

    data: Annotated[
        str,
        Option(
            "A .jsonl, .json, .csv, .tsv or .parquet file of pairs, or - for standard input; or a task: other_name, "
            "greater_than, agreement (with --no-chat), yes_no."
        ),
    ]
    column: list[str] | None = None
    format: str | None = None
    limit: int | None = None
    seed: int = 0

    @property
    def sources(self) -> list[str]:
        return [self.data]

    def pairs(self) -> list[PairRow]:
        """The pairs, at most ``limit`` of them."""
        from probes.prompt_pairs import TASKS, load_prompt_pairs, written_pairs

        if self.data in TASKS:
            return written_pairs(self.data, self.limit or 40, seed=self.seed)
        how = self.reading
        return load_prompt_pairs(self.data, limit=self.limit, format=how.format, columns=how.columns)


SOURCE = Option(
    "scenes:SPLIT:DIFFICULTY:N, scenes:FOLDER, or gqa:, pope:, cocoqa:, vqav2:, naturalbench: and a file.",
    metavar="SOURCE",
)


@dataclass(frozen=True)
class VisualData(Data):
    """Visual questions of one source."""

    data: Annotated[str, SOURCE]
    images: Path | None = None
    annotations: Path | None = None
    column: list[str] | None = None
    missing: Literal["refuse", "skip"] = "refuse"
    decisions: Path | None = None
    max_leak: float = 0.0
    level: list[Literal["object", "attribute", "relationship"]] | None = None
    limit: int | None = None
    seed: int = 0
    instruction: str | None = None
    cases: Literal["both", "as_given"] = "both"

    @property
    def sources(self) -> list[str]:
        return [self.data]

    def read(self) -> VisualSource:
        """The questions, without a model. What to know of them is said on stderr."""
        from probes.visual_semantics.questions import read_source

        source = read_source(
            self.data,
            images=self.images,
            levels=self.level or (),
            limit=self.limit,
            seed=self.seed,
            missing=self.missing,
            annotations=self.annotations,
            columns=self.reading.columns,
            decisions=self.decisions,
            max_leak=self.max_leak,
        )
        say(*(f"warning: {warning}" for warning in source.warnings))
        return source


def told_template(template: Sequence[str] | None) -> dict[str, Any]:
    """What ``--template KEY=VALUE`` tells the chat template."""
    arguments: dict[str, Any] = {}
    for given in template or ():
        name, is_set, value = given.partition("=")
        if not is_set or not name.strip():
            raise typer.BadParameter(f"{given!r}; expected KEY=VALUE", param_hint="--template")
        if name.strip() in arguments:
            raise typer.BadParameter(f"{name.strip()!r} is given twice", param_hint="--template")
        arguments[name.strip()] = _json_or_text(value)
    return arguments


def read_as(format: str | None, column: Sequence[str] | None) -> Reading:
    """What --format and --column say of how a file is to be read."""
    columns: dict[str, str] = {}
    for given in column or ():
        ours, equals, theirs = given.partition("=")
        if not (ours.strip() and equals and theirs.strip()):
            raise typer.BadParameter(
                f"{given!r}; expected our name, =, and the file's, such as question=prompt", param_hint="--column"
            )
        if ours.strip() in columns:
            raise typer.BadParameter(f"{ours.strip()!r} is given twice; give it once", param_hint="--column")
        columns[ours.strip()] = theirs.strip()
    return Reading(format, columns)


def require_files(reading: Reading, sources: Sequence[str]) -> None:
    """Refuse --format and --column where nothing is read from a file."""
    if reading and all(source == "builtin" for source in sources):
        raise typer.BadParameter("for files; leave it out to use the built-in set", param_hint="--format/--column")


def system_of(system: str | None, no_system: bool) -> str | Literal[False] | None:
    """The system prompt of the two options: a text, False for none, None for the template's own."""
    if no_system and system is not None:
        raise typer.BadParameter("give one of --system and --no-system", param_hint="--no-system")
    return False if no_system else system


def say(*sentences: str) -> None:
    """Sentences on stderr, a line each, as they are."""
    for sentence in sentences:
        Console(stderr=True).print(sentence, soft_wrap=True, markup=False, emoji=False, highlight=False)


def say_system(loaded: Model) -> None:
    """On stderr: the system prompt that stands there because none was given."""
    own = loaded.own_system()
    say(f"system prompt: the template's own, {own!r}" if own else "system prompt: none; the template writes none")


def _json_or_text(value: str) -> Any:
    """A value of ``KEY=VALUE``: JSON (true, false, a number, a list), else the text."""
    try:
        return json.loads(value, parse_constant=str)  # NaN and Infinity are no JSON
    except json.JSONDecodeError:
        return {"True": True, "False": False, "None": None}.get(value, value)

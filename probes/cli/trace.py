"""The command `interp trace`: causal traces of edited pictures."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from probes.cli.scenes import Decisions, Kind, Level, MaxLeak
from probes.cli.study import (
    AsJson,
    Device,
    Dtype,
    ModelName,
    NoChat,
    Out,
    Overwrite,
    Resume,
    Seed,
    Shown,
    Study,
    Template,
    Writing,
    print_result,
    say,
)

if TYPE_CHECKING:
    from interp.models import Model
    from probes.pairs import PicturePair

SCENES = "scenes:"
_SPLITS = ("train", "validation", "test", "ood")
Wanted = dict[str, str | None]


class Part(StrEnum):
    attention = "attention"
    mlp = "mlp"
    residual = "residual"


def trace(
    out: Out,
    model: ModelName = "scenes-llava-tiny",
    data: Annotated[
        str,
        typer.Option(
            help="scenes:test (or train, validation, ood), or scenes:FOLDER, of `interp scenes make` or `edit-photo`."
        ),
    ] = "scenes:test",
    decisions: Decisions = None,
    max_leak: MaxLeak = 0.0,
    concept: Annotated[
        list[str] | None,
        typer.Option(help="Of photographs: the question's word that the edit is about (may be given again)."),
    ] = None,
    n: Annotated[int, typer.Option("--n", min=1, max=10_000, help="Pairs; those answered rightly are traced.")] = 20,
    level: Annotated[Level | None, typer.Option(help="What is edited; default: all three in turn.")] = None,
    kind: Annotated[Kind | None, typer.Option(help="Of questions; default: both in turn.")] = None,
    difficulty: Annotated[str, typer.Option(help="easy, medium, hard, or a number from 0 to 1.")] = "easy",
    pixels: Annotated[
        int | None,
        typer.Option(min=16, max=2048, help="Of a picture's side; default: as the model sees it, 96 at least."),
    ] = None,
    part: Annotated[list[Part] | None, typer.Option(help="Trace this part only (may be given again).")] = None,
    every: Annotated[int, typer.Option(min=1, help="Trace each so-many-th layer: fewer passes.")] = 1,
    window: Annotated[int, typer.Option(min=0, help="Patch so many layers on either side together.")] = 0,
    control: Annotated[bool, typer.Option(help="Also states of unrelated pictures (doubles the time).")] = True,
    heads: Annotated[bool, typer.Option("--heads", help="Also patch each head alone, at all text.")] = False,
    only_right: Annotated[bool, typer.Option(help="Leave out pairs that are answered wrongly.")] = True,
    shown: Annotated[int, typer.Option(min=0, max=20, help="Pairs to show token by token.")] = 2,
    instruction: Annotated[str | None, typer.Option(help="A sentence after each question.")] = None,
    seed: Seed = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Pairs in a batch; a killed run loses at most one.")] = 4,
    memory: Annotated[int, typer.Option(min=16, help="About how many MiB a chunk of patches may take.")] = 512,
    template: Template = None,
    no_chat: NoChat = False,
    resume: Resume = False,
    overwrite: Overwrite = False,
    dtype: Dtype = "float32",
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Which states carry what an edit of the picture changes: by layer, and by part of the prompt."""
    from probes.visual_semantics.tracing import trace_pairs
    from probes.visual_semantics.tracing.tables import LEAST_PAIRS

    study = Study(out, model, data, n, seed, resume, overwrite, dtype, device, writing=Writing.of(template, no_chat))
    wanted: Wanted = {"level": level and level.value, "kind": kind and kind.value.replace("-", "_")}
    name = data.removeprefix(SCENES)
    if not data.startswith(SCENES) or not name:
        expected = f"scenes:{', scenes:'.join(_SPLITS)}, or scenes:FOLDER"
        raise typer.BadParameter(f"{data!r}; expected {expected}", param_hint="--data")
    concepts: dict[str, str] | None = None
    origin: dict[str, Any] = {}
    if name in _SPLITS:
        if decisions is not None or concept:
            raise typer.BadParameter(f"goes with scenes:FOLDER, not {data}", param_hint="--decisions, --concept")
        pairs, origin["difficulty"] = _drawn(name, n, wanted, difficulty, pixels, seed), difficulty
    else:
        found, left_out = _of_folder(name, n, wanted, decisions, max_leak)
        pairs, concepts, n = lambda loaded: found, _concepts(found, concept or ()), len(found)
        origin |= {"left_out": left_out} if left_out else {}
    traces = study.run(
        lambda loaded: trace_pairs(
            loaded,
            pairs(loaded),
            concepts=concepts,
            parts=[p.value for p in part] if part else tuple(Part),
            layers=None if every == 1 else range(0, loaded.n_layers, every),
            window=window,
            only_right=only_right,
            control=control,
            heads=heads,
            n_shown=shown,
            instruction=instruction,
            batch_size=batch_size,
            memory_mib=float(memory),
            keep=study.keep(**origin),
        ),
        f"{n} pairs from {data}",
    )
    columns = {"level": "level", "part": "part", "role": "role", "n": "n", "layer": "layer", "depth": "depth"}
    columns |= {"change": "change of P(gold)", "is_clear": "clear"}
    peaks, claims = traces.peaks(only_enough=True), traces.claims()
    tables = [Shown("peaks", peaks, columns, "Where parts matter most")] if len(peaks) else []
    if len(claims):
        of_claims = {"claim_on": "claim on", "part": "part", "role": "role", "claimed_depth": "claimed depth"}
        of_claims |= {"depth": "depth here", "verdict": "verdict"}
        tables.append(Shown("claims", claims, of_claims, "The paper's claims, by relative depth"))
    if traces.heads is not None and len(traces.pairs) >= LEAST_PAIRS:
        of_heads = {"head": "head", "n": "n", "change": "change of P(gold)", "share": "share", "q": "q"}
        first = traces.heads.to_frame().head(20)
        tables.append(Shown("heads", first, of_heads, "Heads patched alone, the first 20"))
    print_result(traces.statement(), tables, [out], as_json)


def _of_folder(
    folder: str, n: int, wanted: Wanted, decisions: Path | None, max_leak: float
) -> tuple[list[PicturePair], list[str]]:
    """The first pairs of a folder that are wanted, and which can't be used, which is also said on stderr."""
    from probes.pairs import used_pairs
    from probes.visual_semantics.tracing import in_words

    pairs, left_out = used_pairs(folder, decisions, max_leak)
    say(*left_out)
    asked = [(pair, in_words(pair)) for pair in pairs]
    found = [p for p, q in asked if all(value in (None, getattr(q, key)) for key, value in wanted.items())][:n]
    if not found:
        raise ValueError(f"{folder} holds no pair of level {wanted['level']} and kind {wanted['kind']} to use.")
    return found, list(left_out)


def _concepts(pairs: Sequence[PicturePair], given: Sequence[str]) -> dict[str, str] | None:
    """The concept words of photographs, by the pair's name: their own, else the first given one of the question's."""
    from probes.visual_semantics.tracing import word_in

    photographs = [pair for pair in pairs if pair.edited is None]
    words = {pair.name: [w for w in (pair.concept, *given) if word_in(pair.question, w)] for pair in photographs}
    if lacking := [pair for pair in photographs if not words[pair.name]]:
        said = (
            f"{len(lacking)} of {len(pairs)} pairs have no known concept word, the word of the question that the edit "
            f"is about; the first is in {lacking[0].question!r}. Give it: --concept WORD, once for each."
        )
        if len(lacking) == len(pairs):
            raise ValueError(said)
        say(f"{said} They are left out.")
    return {name: found[0] for name, found in words.items() if found} or None


def _drawn(name: str, n: int, wanted: Wanted, difficulty: str, pixels: int | None, seed: int):
    """What makes the pairs for a model, whose processor decides how large scenes are drawn. Bad data is refused now."""
    from probes.scenes import edited_pairs
    from probes.visual_semantics.questions import processor_pixels

    drawn_at: str | float = difficulty
    with contextlib.suppress(ValueError):
        drawn_at = float(difficulty)  # or a name
    next(iter(edited_pairs(name, 1, seed, drawn_at, **wanted)))  # refuses before the model is loaded

    def drawn(loaded: Model) -> list:
        side = pixels or max(96, processor_pixels(loaded))
        return list(edited_pairs(name, n, seed, drawn_at, **wanted, pixels=side))

    return drawn

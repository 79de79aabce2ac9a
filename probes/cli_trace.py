"""The command `interp trace`: causal traces of edited pictures."""

from __future__ import annotations

import contextlib
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from probes.cli_scenes import Kind, Level
from probes.cli_study import (
    AsJson,
    Device,
    Dtype,
    ModelName,
    Out,
    Overwrite,
    Resume,
    Seed,
    Shown,
    Study,
    print_result,
)

if TYPE_CHECKING:
    from interp.model import Model
    from probes.pair_sheet import PicturePair

SCENES = "scenes:"
_SPLITS = ("train", "validation", "test", "ood")


class Part(StrEnum):
    attention = "attention"
    mlp = "mlp"
    residual = "residual"


def trace(
    out: Out,
    model: ModelName = "scenes-llava-tiny",
    data: Annotated[
        str, typer.Option(help="scenes:test (or train, validation, ood), or scenes:FOLDER, of `interp scenes make`.")
    ] = "scenes:test",
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
    resume: Resume = False,
    overwrite: Overwrite = False,
    dtype: Dtype = "float32",
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Which states carry what an edit of the picture changes: by layer, and by part of the prompt."""
    from probes.visual_tracing import trace_pairs

    study = Study(out, model, data, n, seed, resume, overwrite, dtype, device)
    pairs = _pairs(data, n, level, kind, difficulty, pixels, seed)
    found = study.run(
        lambda loaded: trace_pairs(
            loaded,
            pairs(loaded),
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
            **study.keeping(**({"difficulty": difficulty} if data.removeprefix(SCENES) in _SPLITS else {})),
        ),
        f"{n} pairs from {data}",
    )
    columns = {"level": "level", "part": "part", "role": "role", "n": "n", "layer": "layer", "depth": "depth"}
    columns |= {"change": "change of P(gold)", "is_clear": "clear"}
    peaks, claims = found.peaks(), found.claims()
    tables = [Shown("peaks", peaks, columns, "Where parts matter most")]
    if len(claims):
        of_claims = {"claim_on": "claim on", "part": "part", "role": "role", "claimed_depth": "claimed depth"}
        of_claims |= {"depth": "depth here", "verdict": "verdict"}
        tables.append(Shown("claims", claims, of_claims, "The paper's claims, by relative depth"))
    if found.heads is not None:
        of_heads = {"head": "head", "n": "n", "change": "change of P(gold)", "share": "share", "q": "q"}
        first = found.heads.to_frame().head(20)
        tables.append(Shown("heads", first, of_heads, "Heads patched alone, the first 20"))
    print_result(found.statement(), tables, [out], as_json)


def _pairs(data: str, n: int, level: Level | None, kind: Kind | None, difficulty: str, pixels: int | None, seed: int):
    """What makes the pairs for a model, whose processor decides how large scenes are drawn. Bad data is refused now."""
    from probes.scene_edits import edited_pairs
    from probes.scene_files import load_scenes
    from probes.visual_prompts import processor_pixels

    name = data.removeprefix(SCENES)
    if not data.startswith(SCENES) or not name:
        raise typer.BadParameter(
            f"{data!r}; expected scenes:{', scenes:'.join(_SPLITS)}, or scenes:FOLDER", param_hint="--data"
        )
    wanted = {"level": None if level is None else level.value, "kind": None if kind is None else kind.value}
    wanted["kind"] = wanted["kind"] and wanted["kind"].replace("-", "_")
    if name not in _SPLITS:
        found = [p for p in load_scenes(Path(name)) if _is_wanted(p, wanted)][:n]
        if not found:
            raise ValueError(f"{name} holds no pair of level {wanted['level']} and kind {wanted['kind']}.")
        return lambda loaded: found
    drawn_at: str | float = difficulty
    with contextlib.suppress(ValueError):
        drawn_at = float(difficulty)  # or a name
    next(iter(edited_pairs(name, 1, seed, drawn_at, **wanted)))  # refuses before the model is loaded

    def drawn(loaded: Model) -> list:
        side = pixels or max(96, processor_pixels(loaded))
        return list(edited_pairs(name, n, seed, drawn_at, **wanted, pixels=side))

    return drawn


def _is_wanted(pair: PicturePair, wanted: dict[str, str | None]) -> bool:
    question = pair.edited.question
    return all(value in (None, getattr(question, name)) for name, value in wanted.items())

"""The command `interp trace`: causal traces of edited pictures."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from probes.cli.declaring import Option, changed, taken
from probes.cli.estimate import Cost
from probes.cli.options import Data, TinyVisualModel, say
from probes.cli.study import Report, Shown, Study, print_result
from probes.cli.vocabulary import VOCABULARY

if TYPE_CHECKING:
    from interp.models import Model
    from probes.pairs import PicturePair

SCENES = "scenes:"
PARTS = ("attention", "mlp", "residual")
_SPLITS = ("train", "validation", "test", "ood")
Wanted = dict[str, str | None]


@dataclass(frozen=True)
class PairData(Data):
    """Edited pictures: drawn ones, or those of a folder."""

    data: Annotated[
        str,
        Option("scenes:test (or train, validation, ood), or scenes:FOLDER, of `interp scenes make` or `edit-photo`."),
    ] = "scenes:test"
    decisions: Path | None = None
    max_leak: float = 0.0
    concept: Annotated[
        list[str] | None,
        Option("Of photographs: the question's word that the edit is about (may be given again)."),
    ] = None
    limit: Annotated[
        int, changed(VOCABULARY["limit"], help="Pairs; those answered rightly are traced.", least=1, most=10_000)
    ] = 20
    level: Annotated[
        Literal["object", "attribute", "relationship"] | None, Option("What is edited; default: all three in turn.")
    ] = None
    kind: Literal["yes_no", "open"] | None = None
    difficulty: str = "easy"
    pixels: Annotated[
        int | None, Option("Of a picture's side; default: as the model sees it, 96 at least.", least=16, most=2048)
    ] = None
    seed: int = 0

    @property
    def sources(self) -> list[str]:
        return [self.data]


def trace(
    keep: Report,
    model: TinyVisualModel,
    data: PairData,
    options: Annotated[
        dict,
        taken(
            "probes.visual_semantics.tracing.tracing:trace_pairs",
            "instruction batch_size",
            window=Option("Patch so many layers on either side together.", least=0),
            control=Option("Also states of unrelated pictures (doubles the time)."),
            heads=Option("Also patch each head alone, at all text."),
            only_right=Option("Leave out pairs that are answered wrongly."),
            n_shown=Option("Pairs to show token by token.", flag="--shown", least=0, most=20),
            memory_mib=Option("About how many MiB a chunk of patches may take.", flag="--memory", least=16),
        ),
    ],
    part: Annotated[
        list[Literal["attention", "mlp", "residual"]] | None,
        Option("Trace this part only (may be given again).", shown="all three"),
    ] = None,
    every: Annotated[int, Option("Trace each so-many-th layer: fewer passes.", least=1)] = 1,
    as_json: bool = False,
) -> None:
    """Which states carry what an edit of the picture changes: by layer, and by part of the prompt."""
    study = Study(keep, model, data)
    wanted: Wanted = {"level": data.level, "kind": data.kind}
    name, n = data.data.removeprefix(SCENES), data.limit
    if not data.data.startswith(SCENES) or not name:
        expected = f"scenes:{', scenes:'.join(_SPLITS)}, or scenes:FOLDER"
        raise typer.BadParameter(f"{data.data!r}; expected {expected}", param_hint="--data")
    concepts: dict[str, str] | None = None
    origin: dict[str, Any] = {}
    if name in _SPLITS:
        if data.decisions is not None or data.concept:
            raise typer.BadParameter(f"goes with scenes:FOLDER, not {data.data}", param_hint="--decisions, --concept")
        pairs = _drawn(name, n, wanted, data.difficulty, data.pixels, data.seed)
        origin["difficulty"] = data.difficulty
    else:
        found, left_out = _of_folder(name, n, wanted, data.decisions, data.max_leak)
        pairs, concepts, n = lambda loaded: found, _concepts(found, data.concept or ()), len(found)
        origin |= {"left_out": left_out} if left_out else {}
    parts = tuple(part or PARTS)
    from probes.visual_semantics.tracing import trace_pairs
    from probes.visual_semantics.tracing.tables import LEAST_PAIRS

    def cost(loaded: Model) -> Cost:
        """By the formula of `trace_pairs`, with a quarter of the positions patched one by one."""
        layers = len(range(0, loaded.n_layers, every))
        passes = 2 + (2 + 1) * len(parts) * layers * (1 + options["control"])
        return Cost(n, passes + options["heads"] * loaded.n_heads * loaded.n_layers / 2)

    traces = study.run(
        lambda loaded: trace_pairs(
            loaded,
            pairs(loaded),
            concepts=concepts,
            parts=parts,
            layers=None if every == 1 else range(0, loaded.n_layers, every),
            **options,
            keep=study.keep(**origin),
        ),
        f"{n} pairs from {data.data}",
        cost=cost,
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
    print_result(traces.statement(), tables, [study.out], as_json)


def _of_folder(
    folder: str, n: int, wanted: Wanted, decisions: Path | None, max_leak: float
) -> tuple[list[PicturePair], list[str]]:
    """The first pairs of a folder that are wanted, and which can't be used, which is also said on stderr."""
    from probes.pairs import used_pairs

    pairs, left_out = used_pairs(folder, decisions, max_leak)
    say(*left_out)
    from probes.visual_semantics.tracing import in_words

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

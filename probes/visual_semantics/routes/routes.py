"""Which road does a head take, the picture or the words? Its effect split by where it reads, question by question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from interp.circuits import Head
from interp.circuits.routes import ELSEWHERE, ITSELF, head_routes
from interp.door import public
from interp.models import Model
from interp.overlays import patch_positions
from interp.prompts import Prompt
from interp.reading import Probability
from interp.records import Kept, hash_json, keeps_work
from interp.scans import Positions
from probes.pairs import PicturePair
from probes.scenes import EditedPair
from probes.studies import Study, mass_read
from probes.visual_semantics.questions import (
    Asked,
    VisualExample,
    asked_of,
    asking_of,
    describe_asked,
    visual_examples,
)
from probes.visual_semantics.routes.result import PICTURE, WORDS, VisualRoutes
from probes.visual_semantics.tracing.prompts import in_words, named_pairs

OBJECT, REST = "edited patches", "other patches"
TITLE = "Routes of visual heads"
CITATIONS = [
    "Causal route gating: arXiv 2605.24024 (learned gates on attention edges; here each group's edges are measured).",
    "Goldowsky-Dill, MacLeod, Sato, Arora (2023). Localizing Model Behavior with Path Patching. arXiv 2304.05969.",
]
CAVEATS = [
    "What a head reads from a word may have come there from the picture, by an earlier head: 'words' is where the last "
    "step begins, not where the fact was first.",
    "A vision tower lets patches see each other, so other patches may hold something of the edited object.",
    "Effects of a head's routes need not add up to its whole effect: what comes after is not linear ('beyond').",
    "The gold answer is read by its first token.",
]


@public
@keeps_work
def visual_routes(
    model: Model,
    examples: Sequence[VisualExample],
    heads: Sequence[Head],
    *,
    positions: Positions = "text",
    batch_size: int = 4,
    memory_mib: float = 1024.0,
    keep: Kept = None,
) -> VisualRoutes:
    """What is lost of the gold answer when a head reads nothing of the picture, of the words, of its own position, or
    of the rest (:func:`interp.circuits.routes.head_routes`, edges cut).

    Args:
        model: with a vision part, whose attention can be read.
        examples: the questions, with pictures.
        heads: (layer, head), such as the first of a ranking.
        positions: where the heads are edited: "text" (after the picture), "answer", "all".
        batch_size: questions in a part file.
        memory_mib: that a chunk of edits may take beside the model.
        keep: where the work and the report are kept, if anywhere.

    Returns: losses in probability; which heads read the picture, the words or both, with intervals over pictures.

    Raises:
        ValueError: no questions, questions without picture, and heads that are not there or named twice.
        UnsupportedAttention: attention that can't be read.

    Cost for each question: a pass, and five branches for each head.
    Misleads: a word can hold what an earlier head brought from the picture.
    Source: after causal route gating, arXiv 2605.24024; V-SEAM's scores, arXiv 2509.14837.
    """
    asked = asked_of(examples)
    if not asked:
        raise ValueError("no questions were given; routes need at least one.")
    study = _study(
        model,
        (e.prompt for e in examples),
        {**describe_asked(asked)},
        {"asking": asking_of(examples), "replaced": False},
        heads,
        positions,
        batch_size,
        keep,
    )
    if study.found is not None:
        return study.found

    def look(batch: Sequence[VisualExample]) -> dict[str, np.ndarray]:
        prompts = [_with_picture(e.prompt) for e in batch]
        groups = {PICTURE: [p.span("image") for p in prompts], WORDS: [p.span("after_image") for p in prompts]}
        return _routes(model, prompts, groups, None, heads, positions, memory_mib)

    arrays = study.run(examples, look)
    mass = mass_read(model, [example.prompt for example in examples[:16]])
    return study.done(_result(study, asked, heads, (PICTURE,), arrays, mass))


@public
@keeps_work
def pair_routes(
    model: Model,
    pairs: Sequence[PicturePair | EditedPair],
    heads: Sequence[Head],
    *,
    instruction: str | None = None,
    positions: Positions = "text",
    batch_size: int = 4,
    memory_mib: float = 1024.0,
    keep: Kept = None,
) -> VisualRoutes:
    """As :func:`visual_routes`, on edited pictures: a head reads from one group what it would on the edited twin, and
    all else as before.

    Args:
        model, heads, positions, batch_size, memory_mib, keep: as there.
        pairs: edited scenes, or pictures with masks; the edited object's patches are a group, the others another one
            (all patches one, where image positions are no patches).
        instruction: a sentence after the question.

    Returns: losses of the probability of the answer before the edit.

    Raises:
        ValueError: no pairs, none whose answers a first token can tell, and as :func:`visual_routes`.
        UnsupportedAttention: attention that can't be read.

    Cost for each pair: two passes, and five or six branches for each head.
    Misleads: as :func:`visual_routes`.
    Source: resampling edges as in path patching, arXiv 2304.05969 and 2605.19250.
    """
    by_name = {pair.name: pair for pair in named_pairs(pairs)}
    asked = [in_words(pair) for pair in by_name.values()]
    befores = visual_examples(model, asked, lambda q: by_name[q.id].before, instruction)
    afters = visual_examples(model, befores.asked, lambda q: by_name[q.id].after, instruction)
    usable = [by_name[q.id] for q in befores.asked]
    study = _study(
        model,
        (example.prompt for part in (befores, afters) for example in part),
        {"sha256": hash_json([[p.name, p.digest] for p in usable]), "n": len(usable)},
        {"instruction": instruction, "replaced": True},
        heads,
        positions,
        batch_size,
        keep,
    )
    if study.found is not None:
        return study.found
    has_patches = befores[0].prompt.image.grid is not None
    of_picture = (OBJECT, REST) if has_patches else (PICTURE,)

    def look(batch: Sequence[int]) -> dict[str, np.ndarray]:
        before, after = ([part[i].prompt for i in batch] for part in (befores, afters))
        if has_patches:
            edited = [patch_positions(model, p, usable[i].mask) for p, i in zip(before, batch, strict=True)]
            rest = [tuple(set(p.span("image")) - set(own)) for p, own in zip(before, edited, strict=True)]
            groups: dict[str, Sequence[Sequence[int]]] = {OBJECT: edited, REST: rest}
        else:
            groups = {PICTURE: [p.span("image") for p in before]}
        groups[WORDS] = [p.span("after_image") for p in before]
        return _routes(model, before, groups, after, heads, positions, memory_mib)

    arrays = study.run(range(len(usable)), look)
    mass = mass_read(model, [example.prompt for example in befores[:16]])
    return study.done(_result(study, befores.asked, heads, of_picture, arrays, mass))


def _study(
    model: Model,
    prompts: Any,
    data: Mapping[str, Any],
    settings: Mapping[str, Any],
    heads: Sequence[Head],
    positions: Positions,
    batch_size: int,
    keep: Kept,
) -> Study:
    return Study(
        TITLE,
        model,
        prompts,
        data=data,
        settings={**settings, "heads": [[int(layer), int(head)] for layer, head in heads], "positions": positions},
        batch_size=batch_size,
        keep=keep,
        citation=CITATIONS,
        caveats=CAVEATS,
        need_mib=20,
    )


def _routes(
    model: Model,
    prompts: Sequence[Prompt],
    groups: Mapping[str, Sequence[Sequence[int]]],
    sources: Sequence[Prompt] | None,
    heads: Sequence[Head],
    positions: Positions,
    memory_mib: float,
) -> dict[str, np.ndarray]:
    found = head_routes(
        model,
        prompts,
        groups,
        heads=heads,
        sources=sources,
        metric=Probability("gold"),
        positions=positions,
        memory_mib=memory_mib,
    )
    return {name: getattr(found, name).astype(np.float32) for name in ("lost", "whole", "attention")}


def _result(
    study: Study,
    asked: tuple[Asked, ...],
    heads: Sequence[Head],
    of_picture: tuple[str, ...],
    arrays: Mapping[str, np.ndarray],
    mass: Mapping[str, Any],
) -> VisualRoutes:
    return VisualRoutes(
        asked=asked,
        heads=tuple((int(layer), int(head)) for layer, head in heads),
        routes=(*of_picture, WORDS, ITSELF, ELSEWHERE),
        of_picture=of_picture,
        lost=arrays["lost"],
        whole=arrays["whole"],
        attention=arrays["attention"],
        provenance=study.provenance(**mass),
    )


def _with_picture(prompt: Prompt) -> Prompt:
    if prompt.image is None:
        raise ValueError(f"prompt {prompt.id!r} has no picture; routes are of questions about one.")
    return prompt

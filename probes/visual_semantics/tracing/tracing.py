"""Causal traces of a visual question: by which states, where and in which layer, does an edit of the picture change the
answer?

After V-SEAM (arXiv 2509.14837; its released code): states of the run on the original picture are set into the run on
the edited one, and the change of the gold answer's probability is averaged over questions. Ours: positions lined up by
role before they are averaged, the edited patches apart from the rest of the picture, intervals, and unrelated pictures
as the source of states for control.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from interp.door import public
from interp.models import Model
from interp.records import Kept, hash_json, keeps_work
from interp.scans.state_patches import PARTS
from interp.scans.traces import Measured, Trace
from probes.pairs import PicturePair
from probes.scenes import EditedPair
from probes.studies import Study, mass_read
from probes.visual_semantics.tracing.head_traces import HeadTraces
from probes.visual_semantics.tracing.heads import check_heads, patch_heads
from probes.visual_semantics.tracing.prompts import METRICS, PairPrompts, in_words, named_pairs
from probes.visual_semantics.tracing.readers import picture_readers
from probes.visual_semantics.tracing.result import TracedPair, VisualTraces
from probes.visual_semantics.tracing.roles import LAST, ROLES, concept_word, word_in

TITLE = "Causal traces of edited pictures"
CITATIONS = [
    "V-SEAM: Visual Semantic Editing and Attention Modulating for Causal Interpretability of Vision-Language Models, "
    "arXiv 2509.14837.",
    "Meng, Bau, Andonian, Belinkov (2022). Locating and Editing Factual Associations in GPT. arXiv 2202.05262.",
]
CAVEATS = [
    "A state that brings the answer back is enough for it, in this layer and at this place; others may do as well, and "
    "what takes two states together shows nowhere.",
    "A vision tower lets patches see each other: an edit changes the states of other patches too, and the edited ones "
    "hold more than the object.",
    "A role with more positions has more to bring back; compare layers within a role rather than roles.",
    "An unrelated picture often has the same answer by chance (half of yes/no questions), so its states bring some "
    "of it back too: what the right picture's do beyond it is on the careful side, and takes 20 pairs or so to show.",
    "The gold answer is read by its first token.",
]


@public
@keeps_work
def trace_pairs(
    model: Model,
    pairs: Sequence[PicturePair | EditedPair],
    *,
    concepts: Mapping[str, str] | None = None,
    parts: Sequence[str] = PARTS,
    layers: Sequence[int] | None = None,
    window: int = 0,
    only_right: bool = True,
    control: bool = True,
    heads: bool = False,
    n_shown: int = 2,
    instruction: str | None = None,
    batch_size: int = 4,
    seed: int = 0,
    memory_mib: float = 1024.0,
    keep: Kept = None,
) -> VisualTraces:
    """Trace each pair by role (:data:`probes.visual_semantics.tracing.roles.ROLES`): the picture before the edit into
    the one after it.

    Args:
        model: with a vision part and a processor.
        pairs: edited scenes, or pictures with masks (scenes read from a folder, photographs).
        concepts: the concept word in the question, by the pair's name, where it is to be another than the pair's own
            (``pair.concept``, or of a scene what is asked). A pair without one is left out, and said so in ``asked``.
        parts, layers, window: as in :func:`interp.scans.tracing.trace`.
        only_right: trace only pairs whose most probable next token begins the right answer, before and after.
        control: trace again with the states of another pair's picture, asked the same question (drawn by ``seed``, of
            the same number of image positions): what any picture's states do.
        heads: also patch each head alone (:func:`probes.visual_semantics.tracing.heads.patch_heads`): its output at all
            text after the picture, from before the edit into after it; with ``control`` also from another pair's
            picture.
        n_shown: so many pairs are also traced token by token, for the report, which shows them with the heads that read
            most from the picture drawn over it.
        instruction: a sentence after the question, as in
            :func:`probes.visual_semantics.questions.prompts.visual_examples`.
        batch_size: pairs in a part file: a killed run loses at most one.
        seed: of the control's pictures.
        memory_mib: that a chunk of patches may take beside the model.
        keep: where the work and the report are kept, if anywhere.

    Raises:
        ValueError: no pairs, none that can be traced (with the counts of reasons), names given twice, a model without
            vision, ``n_shown`` below 0.

    Cost: 2 passes a pair to see what is right, then about S + (4 m + 2 S) x parts x layers
    token-forwards for each pair that is traced (m text tokens, S in all), and as much again for the control. ``heads``:
    another S + N m (L + 1) / 2L for N heads of L layers, and again for the control.
    Misleads: a state that is enough to change the answer need not be the one that does: see :func:`interp.trace`.
    Source: V-SEAM, arXiv 2509.14837; Meng et al. (2022), arXiv 2202.05262; roles and controls are ours.
    """
    given = named_pairs(pairs)
    if n_shown < 0:
        raise ValueError(f"n_shown={n_shown}; expected 0 or more.")
    spans, why_not = _concepts(given, concepts or {})
    own_words = bool(concepts) or any(pair.concept for pair in given)  # else what scenes ask, which data's hash tells
    settings = {
        "parts": list(parts),
        "layers": None if layers is None else list(layers),
        "window": window,
        "only_right": only_right,
        "control": control,
        "n_shown": n_shown,
        "instruction": instruction,
        "concepts": {name: list(span) for name, span in spans.items()} if own_words else None,
        "seed": seed,
    }
    if heads:  # not otherwise: a report from before there was a choice keeps its identity
        settings["heads"] = True
    data = {"sha256": hash_json([[p.name, p.digest] for p in given]), "n": len(given)}
    usable = [pair for pair in given if pair.name in spans]
    if not usable:
        raise ValueError(_none_left(why_not))
    prompts = PairPrompts(model, usable, spans, instruction, seed)
    why_not |= prompts.left_out
    read = prompts.all_of([pair for pair in usable if pair.name not in why_not])
    study = Study(
        TITLE,
        model,
        read,
        data=data,
        settings=settings,
        batch_size=batch_size,
        keep=keep,
        citation=CITATIONS,
        caveats=CAVEATS,
    )
    if study.found is not None:
        return study.found

    usable = [pair for pair in usable if pair.name not in why_not]
    screened = study.run(usable, prompts.screen, "screen")
    asked = _asked_table(given, usable, screened, why_not, only_right)
    chosen = [pair for pair in usable if asked.set_index("pair").loc[pair.name, "traced"]]
    if not chosen:
        raise ValueError(_none_left(dict(zip(asked["pair"], asked["why_not"], strict=True))))
    how = _how(prompts, chosen, memory_mib)
    options = {"parts": tuple(parts), "layers": layers, "window": window, "memory_mib": memory_mib}

    def look(batch: Sequence[PicturePair]) -> dict[str, np.ndarray]:
        found = prompts.trace(batch, **options, method=how[0], check=0)
        arrays = _packed(found, "trace")
        return arrays | (_packed(prompts.control(batch, found, **options, method=how[0]), "control") if control else {})

    arrays = study.run(chosen, look, "trace")
    of_heads, how_heads = None, ("", "")
    if heads:
        how_heads = check_heads(model, [prompts.twins(pair) for pair in _first_and_longest(chosen)], memory_mib)

        def patch(batch: Sequence[PicturePair]) -> dict[str, np.ndarray]:
            return patch_heads(model, [prompts.twins(p) for p in batch], control, how_heads[0], memory_mib)

        of_heads = study.run(chosen, patch, "heads")
    shown = tuple((pair, prompts.by_token(pair, **options, method=how[0], check=0)) for pair in chosen[:n_shown])
    readers = tuple(picture_readers(prompts, pair, instruction) for pair, _ in shown)
    layers = tuple(range(model.n_layers)) if layers is None else tuple(layers)
    axes = {"parts": tuple(parts), "layers": layers, "regions": ROLES, "window": window, "how": how[0], "check": how[1]}
    axes |= {"example_ids": tuple(pair.name for pair in chosen), "seconds": study.provenance()["seconds"]}
    provenance = study.provenance(how=f"{how[0]}; {how[1]}")
    provenance |= mass_read(model, [prompts.twins(pair).before for pair in chosen[:16]])
    traces = [_unpacked(arrays, name, axes) if name == "trace" or control else None for name in ("trace", "control")]
    by_head = None
    if of_heads is not None:
        by_head = HeadTraces.of(of_heads, traces[0].clean, traces[0].corrupt, *how_heads)
        provenance["how_heads"] = "; ".join(how_heads)
    words = tuple(_in_words(pair, spans[pair.name]) for pair in chosen)
    return study.done(VisualTraces(words, *traces, asked, model.n_layers, provenance, shown, readers, by_head))


def _how(prompts: PairPrompts, chosen: Sequence[PicturePair], memory_mib: float) -> tuple[str, str]:
    """Fan-out or loop, checked on the first pair and on the one with the longest question."""
    found = prompts.trace(_first_and_longest(chosen), regions=[ROLES[0], LAST], memory_mib=memory_mib)
    return found.how, found.check


def _first_and_longest(chosen: Sequence[PicturePair]) -> list[PicturePair]:
    longest = max(range(len(chosen)), key=lambda i: len(chosen[i].question))
    return [chosen[i] for i in sorted({0, longest})]


def _concepts(
    pairs: Sequence[PicturePair], given: Mapping[str, str]
) -> tuple[dict[str, tuple[int, int]], dict[str, str]]:
    """Where each question's concept word stands, and why pairs have none."""
    spans, why_not = {}, {}
    for pair in pairs:
        if word := given.get(pair.name, pair.concept):
            span = word_in(pair.question, word)
        else:
            span = concept_word(pair.edited.question) if pair.edited is not None else None
        if span is None:
            why_not[pair.name] = f"no concept word in {pair.question!r}: give concepts={{{pair.name!r}: word}}"
        else:
            spans[pair.name] = span
    return spans, why_not


def _asked_table(given, usable, screened, why_not: Mapping[str, str], only_right: bool) -> pd.DataFrame:
    """A row for each pair given."""
    at = {pair.name: i for i, pair in enumerate(usable)}
    rows = []
    for pair in given:
        row = {"pair": pair.name, "level": pair.level, "question": pair.question}
        row |= {"answer_before": pair.answer_before, "answer_after": pair.answer_after}
        i = at.get(pair.name)
        row |= {name: np.nan if i is None else float(screened[name][i]) for name in ("p_before", "p_after")}
        row |= {name: i is not None and bool(screened[name][i]) for name in ("right_before", "right_after")}
        reason = why_not.get(pair.name, "")
        if not reason and only_right and not (row["right_before"] and row["right_after"]):
            when = " and ".join(w for w in ("before", "after") if not row[f"right_{w}"])
            reason = f"answered wrongly {when} the edit"
        rows.append(row | {"traced": not reason, "why_not": reason})
    return pd.DataFrame(rows)


def _none_left(why_not: Mapping[str, str]) -> str:
    counts = pd.Series([r.split(" in ")[0] for r in why_not.values()]).value_counts()
    said = "; ".join(f"{n} {reason}" for reason, n in counts.items())
    return f"none of {len(why_not)} pairs can be traced: {said}. Give other pairs, or only_right=False."


def _in_words(pair: PicturePair, span: tuple[int, int]) -> TracedPair:
    asked = in_words(pair)
    return TracedPair(
        pair.name, pair.level, asked.kind, pair.question, pair.question[slice(*span)], asked.gold, pair.answer_after
    )


def _packed(found: Trace, name: str) -> dict[str, np.ndarray]:
    arrays = {f"{name}.n_positions": found.n_positions}
    for i, m in enumerate(found.measured):
        arrays |= {f"{name}.{kind}.{i}": getattr(m, kind) for kind in ("values", "clean", "corrupt")}
    return arrays


def _unpacked(arrays: Mapping[str, np.ndarray], name: str, axes: Mapping[str, Any]) -> Trace:
    measured = [
        Measured(str(m), m.unit, *(arrays[f"{name}.{kind}.{i}"] for kind in ("values", "clean", "corrupt")))
        for i, m in enumerate(METRICS)
    ]
    return Trace(tuple(measured), n_positions=arrays[f"{name}.n_positions"], **axes)

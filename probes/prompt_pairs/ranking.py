"""Heads that matter to the answers of pairs, as a study: pairs left out counted, the ranking kept in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from interp.door import public
from interp.locating import WAYS, locate
from interp.models import Model
from interp.rankings import HeadRanking
from interp.records import Kept, keeps_work
from probes.prompt_pairs.building import build_pairs
from probes.prompt_pairs.first_heads import record_of_sets, require_sets
from probes.prompt_pairs.pair_rows import PairRow
from probes.rows import hash_items
from probes.studies import Study

CITATIONS = [
    "Ways of finding heads, and what misleads each: docs/methods/known-answers.md; after Lindner et al. 2023 (arXiv "
    "2301.05062), Gupta et al. 2024 (arXiv 2407.14494), and Mueller et al. 2025 (arXiv 2504.13151).",
]
N_NAMED = 10
"""First heads whose kinds are said."""


@public
@keeps_work
def locate_heads(
    model: Model,
    rows: Sequence[PairRow],
    *,
    method: str = "auto",
    positions: str | int = "all",
    answered: bool = True,
    align: bool = False,
    sets: int = 0,
    seed: int = 0,
    keep: Kept = None,
) -> HeadRanking:
    """Rank all heads by how much they matter to the answers of pairs.

    Args:
        model: whose heads.
        rows: pairs, from :func:`load_prompt_pairs`.
        method, positions, seed: as of :func:`interp.locating.locate`.
        answered: leave out pairs of which the model prefers the other prompt's answer.
        align: keep pairs of unequal lengths, the last tokens of what differs going together.
        sets: weigh the first so many heads as a set (:func:`interp.circuits.weigh_first`); 0: not. On the pairs that
            made the ranking.
        keep: the folder for the report (:class:`interp.Keep`).

    The first sentences say what the ranking does not see; another, what kinds of heads the first ones are by their
    attention on random tokens, where it can be read.

    Returns:
        The ranking by importance [example, layer, head], in logits.

    Raises:
        ValueError: as :func:`build_pairs` and :func:`interp.locating.locate`.
        FileExistsError: a folder with another run's report.

    Cost: as :func:`interp.locating.locate`, a fifth of it for what is said beside, and some 30 passes; with
    ``sets`` as :func:`interp.circuits.passes_of_first` says. Not resumable within a ranking.
    Misleads: as ``interp.locating.WAYS[method].misses`` says.
    """
    if method not in WAYS:
        raise ValueError(f"method={method!r}; expected one of {', '.join(WAYS)}.")
    require_sets(model, sets)
    built = build_pairs(model, rows, answered=answered, align=align)
    asked = {"method": method, "positions": positions, "answered": answered, "align": align, "sets": sets, "seed": seed}
    study = Study(
        "Heads that matter",
        model,
        [*built.pairs.clean, *built.pairs.corrupt],
        data={"pairs": len(rows), "sha256": hash_items(rows)},
        settings=asked,
        n_items=len(built.pairs),
        batch_size=len(built.pairs),
        keep=keep,
        is_stream=False,
        citation=CITATIONS,
        caveats=[f"What misleads this way: {WAYS[method].misses}."],
    )
    if study.found is not None:
        return study.found
    ranking = locate(model, built.pairs, method, positions=positions, seed=seed)
    found = ranking.provenance
    said = [built.sentence(), *found.get("beside", []), *_kinds(ranking)]
    kept = ("title", "method", "metric", "passes", "beside_numbers", "head_kinds")
    more = {name: found[name] for name in kept if name in found}
    more |= record_of_sets(model, ranking, built, sets, positions=positions, seed=seed)
    return study.done(replace(ranking, provenance=study.provenance(**more, beside=said)))


def _kinds(ranking: HeadRanking) -> list[str]:
    """What kinds the first heads are; nothing where attention can't be read or a model is too short."""
    if "head_kinds" not in ranking.provenance:
        return []
    kinds = ranking.provenance["head_kinds"]
    named = [f"{label} {kinds[label].replace('_', ' ')}" for label in ranking.top(N_NAMED)["label"] if label in kinds]
    if not named:
        return [f"None of the first {N_NAMED} heads shows a known kind on random tokens."]
    return [f"On random tokens, of the first {N_NAMED} heads: {', '.join(named)}."]

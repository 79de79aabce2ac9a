"""Where a causal trace patches: regions of positions, lined up over prompts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from interp.figures import visible
from interp.prompts import Prompt

Regions = Mapping[str, Sequence[Sequence[int]]]
"""Name of a region -> its positions in each prompt."""


def each_position(clean: Sequence[Prompt], corrupt: Sequence[Prompt]) -> dict[str, list[tuple[int, ...]]]:
    """Regions of one position each, named by their tokens: those after the picture, with ``"image"`` for all of the
    picture; of texts, those from the first token in which twins differ.

    Several pairs are lined up from that beginning, so they must have as many positions there: ``ValueError`` otherwise,
    because a mean over positions with other roles means nothing. Line them up by role then, with regions of your own.
    """
    starts = [_first_difference(a, b) for a, b in zip(clean, corrupt, strict=True)]
    counts = sorted({len(p) - start for p, start in zip(clean, starts, strict=True)})
    if len(counts) > 1:
        raise ValueError(
            f"the prompts have {', '.join(map(str, counts))} positions to trace, so position k is another thing in "
            "each. Give regions= lined up by role (the concept word, the last token, ...), or trace one pair at a time."
        )
    regions: dict[str, list[tuple[int, ...]]] = {}
    if clean[0].image is not None:
        regions["image"] = [p.span("image") for p in clean]
    used: Counter[str] = Counter(regions)
    for k in range(counts[0]):
        tokens = {p.tokens[s + k] if p.tokens else str(p.token_ids[s + k]) for p, s in zip(clean, starts, strict=True)}
        name = visible(tokens.pop()).strip() or "␣" if len(tokens) == 1 else f"token {k}"
        used[name] += 1
        name += f" ({used[name]})" if used[name] > 1 else ""
        regions[name] = [(start + k,) for start in starts]
    return regions


def _first_difference(clean: Prompt, corrupt: Prompt) -> int:
    if clean.image is not None:
        return clean.span("image")[-1] + 1
    differing = [i for i, (a, b) in enumerate(zip(clean.token_ids, corrupt.token_ids, strict=True)) if a != b]
    return differing[0] if differing else 0


def require_regions(prompts: Sequence[Prompt], regions: Regions) -> None:
    """Raise ``ValueError`` unless every region has positions for each prompt, those it has, and each prompt some."""
    if not regions:
        raise ValueError("regions is empty; expected at least one name with a list of positions for each pair.")
    for name, places in regions.items():
        if len(places) != len(prompts):
            raise ValueError(f"region {name!r} has {len(places)} lists of positions for {len(prompts)} pairs.")
        for prompt, positions in zip(prompts, places, strict=True):
            if bad := [p for p in positions if not 0 <= p < len(prompt)]:
                raise ValueError(
                    f"region {name!r}: position {bad[0]} was asked of prompt {prompt.id!r}, which has {len(prompt)} "
                    "tokens; expected positions from 0 (a negative one would count from the end)."
                )
    if bare := [i for i in range(len(prompts)) if not any(len(places[i]) for places in regions.values())]:
        raise ValueError(f"pair {bare[0]} has no position in any region; leave it out, or give it some.")

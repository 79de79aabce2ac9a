"""Where the heads that read most from a pair's picture look, drawn on it: an example beside the traces of the pair."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from interp.overlays import HeadMaps, read_strongest_maps, require_grid
from interp.reading import LogitDifference
from probes.pairs import PicturePair
from probes.visual_semantics.questions import visual_examples
from probes.visual_semantics.tracing.prompts import PairPrompts, in_words

if TYPE_CHECKING:
    import plotly.graph_objects as go

N_FOR, N_AGAINST = 2, 1  # heads shown


class PictureReaders(NamedTuple):
    """Maps of some heads over a pair's picture before its edit, or None and the reason."""

    maps: HeadMaps | None
    why_not: str = ""

    def plot(self, pair: PicturePair) -> go.Figure:
        """The overlays, with a note of what they show."""
        if self.maps is None:
            raise ValueError(f"{pair.name} has no maps of heads: {self.why_not}.")
        n_against = int((self.maps.contribution.sum(axis=(1, 2)) < 0).sum())
        rows = _listed(len(self.maps.heads) - n_against, n_against)
        note = (
            f"The picture before the edit, and over it the heads that read most from it, at the last token, {rows} "
            f"“{pair.answer_before}” (the answer before the edit) rather than “{pair.answer_after}”. Contribution: "
            "direct, in logits; what later layers make of it is not in it. A patch's position also holds what the "
            "vision tower mixed in from others: a coloured patch is where a head reads, which need not be where the "
            "thing is."
        )
        return self.maps.plot(pair.before).update_layout(meta={"note": note})


def picture_readers(prompts: PairPrompts, pair: PicturePair, instruction: str | None = None) -> PictureReaders:
    """The heads that read most from the picture for the answer before the edit (two), and most against it (one).

    One pass. Each answer is read in the one case that it is given in, as direct attribution needs. Never raises for a
    model or a pair that can't be shown so (no patches, answers of several tokens, an attention of its own): the reason
    is kept instead, as traces don't need the overlay.
    """
    try:
        require_grid(prompts.twins(pair).before)
        model = prompts.model
        (example,) = visual_examples(model, [in_words(pair)], lambda _: pair.before, instruction, cases="as_given")
        metric = LogitDifference(pair.answer_before, pair.answer_after)
        return PictureReaders(read_strongest_maps(model, example.prompt, metric, N_FOR, N_AGAINST, pair.question))
    except Exception as error:  # whatever is wrong with an illustration must not cost the traces
        return PictureReaders(None, str(error).strip().rstrip(".") or type(error).__name__)


def _listed(n_for: int, n_against: int) -> str:
    said = [f"{n} {way}" for n, way in ((n_for, "for"), (n_against, "against")) if n]
    return ", then ".join(said)

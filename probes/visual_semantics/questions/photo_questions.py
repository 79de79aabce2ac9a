"""Edited photographs as visual questions: each pair asked before and after the edit, which have different answers."""

from __future__ import annotations

from collections.abc import Sequence

from interp.door import public
from interp.models import Model
from interp.vision import ImageLike, image_sha256, read_image
from probes.pairs import PicturePair
from probes.visual_semantics.questions.asked import NO, YES, Asked
from probes.visual_semantics.questions.prompts import VisualExamples, visual_examples
from probes.visual_semantics.questions.wording import Cases


@public
def photo_pair_examples(
    model: Model, pairs: Sequence[PicturePair], *, instruction: str | None = None, cases: Cases = "both"
) -> VisualExamples:
    """The questions of edited photographs (:func:`probes.pairs.files.used_pairs`), two a pair: about the picture before
    the edit, and about the one after it, whose answer is the other one.

    A photograph and its edited twins have one ``image_id``, so that they are resampled and held out together. What two
    edits of one photograph ask alike is asked once. The pictures are in memory, as they are in ``pairs``.

    Args:
        model: with a vision part and a processor.
        pairs: the edited photographs.
        instruction: a sentence after the question; by default none where there is a chat template, else V-SEAM's.
        cases: whether "Yes" counts as "yes" too ("both"), or answers only as they are written ("as_given").

    Raises as :func:`visual_examples`.
    """
    pictures: dict[str, ImageLike] = {}
    asked: dict[tuple[str, ...], Asked] = {}
    for pair in pairs:
        options = (pair.answer_before, pair.answer_after)
        kind = "yes_no" if {o.casefold() for o in options} == {YES, NO} else "open"
        pair_pictures = (pair.before, pair.after)
        hashes = [image_sha256(read_image(picture)) for picture in pair_pictures]
        photograph = hashes[0]
        for when, picture, digest, gold in zip(("before", "after"), pair_pictures, hashes, options, strict=True):
            question = Asked(
                id=f"{pair.name}-{pair.digest[:6]}-{when}",
                question_text=pair.question,
                gold=gold,
                options=options,
                level=pair.level,
                kind=kind,
                image_id=f"photo-{photograph[:10]}",
                image_sha256=photograph,
            )
            asked.setdefault((digest, pair.question, gold, *sorted(options)), question)
            pictures[question.id] = picture
    return visual_examples(model, [*asked.values()], lambda q: pictures[q.id], instruction, cases)

"""What the rankings of this room say of each head: units, null values, and how a higher one reads."""

from __future__ import annotations

from interp.rankings import Measure, register

MEASURES = tuple(
    register(measure)
    for measure in (
        Measure(
            "nas",
            "Negative Attention Score (nats): above 0, the head attends more to {no!r} than to {yes!r} in the "
            "instruction; near 0, equally or to neither.",
            unit="nats",
            null_is="equal attention to both, or to neither",
            higher="more attention to {no!r}",
        ),
        Measure(
            "nas_swapped_order",
            "NAS with {yes!r} and {no!r} in each other's place: a head about the word keeps its sign, one about "
            "position turns it.",
            unit="nats",
            null_is="equal attention to both, or to neither",
            higher="more attention to {no!r}",
            changes="the position of the options",
            leaves="the word {no!r}",
        ),
        Measure(
            "nas_order_balanced",
            "Mean NAS of the two orders: what is left when position is balanced out.",
            unit="nats",
            null_is="no difference between the words, whatever their order",
            higher="more attention to {no!r}",
        ),
        Measure(
            "total_effect",
            "What the head adds to logit({no}) - logit({yes}) at the answer, through every path (clean minus ablated, "
            "logits): above 0, it pushes toward {no!r}.",
            unit="logits",
            null_is="ablation changes nothing",
            higher="pushes toward {no!r}",
        ),
        Measure(
            "total_effect_swapped_order",
            "The total effect with the options in the other order (logits).",
            unit="logits",
            null_is="ablation changes nothing",
            higher="pushes toward {no!r}",
            changes="the position of the options",
            leaves="the word {no!r}",
        ),
        Measure(
            "direct_effect",
            "What the head itself writes toward logit({no}) - logit({yes}), without what later layers make of it "
            "(direct logit attribution, logits).",
            unit="logits",
            null_is="writes nothing along the difference",
            higher="writes toward {no!r}",
        ),
    )
)

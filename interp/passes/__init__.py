"""One forward pass: its inputs, what may share it, and what it was a pass of."""

from typing import TYPE_CHECKING

from interp.door.faces import hands_on

if TYPE_CHECKING:
    from interp.passes.gathered import Gathered as Gathered, Indices as Indices
    from interp.passes.handle import Handle as Handle
    from interp.passes.identity import (
        PARTS as PARTS,
        describe_computation as describe_computation,
        end_tokens as end_tokens,
        fingerprint as fingerprint,
        hash_config as hash_config,
        hash_prompts as hash_prompts,
        identity_of as identity_of,
        same_fingerprint as same_fingerprint,
        tolerance as tolerance,
    )
    from interp.passes.independence import (
        by_side as by_side,
        is_right as is_right,
        lengths_of as lengths_of,
        may_share as may_share,
        passes as passes,
        to_check as to_check,
        why_attention_differs as why_attention_differs,
    )
    from interp.passes.inputs import (
        growing_rows as growing_rows,
        picture_arguments as picture_arguments,
        prefix_inputs as prefix_inputs,
        rest_inputs as rest_inputs,
        text_from as text_from,
        whole_inputs as whole_inputs,
    )
    from interp.passes.lengths import around_borders as around_borders
    from interp.passes.looks_ahead import any_looks_ahead as any_looks_ahead, text_probe as text_probe
    from interp.passes.plain import forget_lengths as forget_lengths, plain_logits as plain_logits
    from interp.passes.shared_prefix import (
        UpperLayers as UpperLayers,
        answer_logits as answer_logits,
        by_picture as by_picture,
        in_order as in_order,
        logits_by_batch as logits_by_batch,
    )

__getattr__, __dir__, __all__ = hands_on(__name__, __file__)

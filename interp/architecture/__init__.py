"""What a transformers model is made of, and the one way to attach anything to it."""

from typing import TYPE_CHECKING

from interp.door.faces import hands_on

if TYPE_CHECKING:
    from interp.architecture.active_edits import acting as acting
    from interp.architecture.adapters import adapters_off as adapters_off, describe_adapters as describe_adapters
    from interp.architecture.attention import (
        AttentionCall as AttentionCall,
        UnsupportedAttention as UnsupportedAttention,
        attention_handler as attention_handler,
        ordinary_attention as ordinary_attention,
        softmax_with_sinks as softmax_with_sinks,
        why_not_supported as why_not_supported,
    )
    from interp.architecture.bridge_twin import Twin as Twin
    from interp.architecture.compiled import why_compiled as why_compiled
    from interp.architecture.components import (
        Components as Components,
        find_components as find_components,
        input_device as input_device,
        weights_brought as weights_brought,
    )
    from interp.architecture.foreign_parts import (
        require_in_place as require_in_place,
        require_no_dropout as require_no_dropout,
        without_applied_edits as without_applied_edits,
    )
    from interp.architecture.hooks import (
        Hook as Hook,
        acts_on_passes as acts_on_passes,
        attached as attached,
        counting as counting,
        decoder_of as decoder_of,
        forward_replaced as forward_replaced,
        input_of as input_of,
        output_of as output_of,
        run_pass as run_pass,
        undisturbed as undisturbed,
    )
    from interp.architecture.turns import alone as alone, one_at_a_time as one_at_a_time, turn_of as turn_of
    from interp.architecture.weight_hash import weights_sha256 as weights_sha256

__getattr__, __dir__, __all__ = hands_on(__name__, __file__)

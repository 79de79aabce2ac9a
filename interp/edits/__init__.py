"""Edits of a model that are kept: steering, scaled and tuned heads, folded into weights, exported."""

from typing import TYPE_CHECKING

from interp.door.faces import hands_on

if TYPE_CHECKING:
    from interp.edits.composed import load_edit as load_edit
    from interp.edits.conditional import ConditionalSteering as ConditionalSteering
    from interp.edits.conditions import Condition as Condition
    from interp.edits.diff import compare_edits as compare_edits
    from interp.edits.directions import (
        Direction as Direction,
        load_direction as load_direction,
        random_direction as random_direction,
    )
    from interp.edits.family import ModelEdit as ModelEdit
    from interp.edits.head_rows import (
        HeadRows as HeadRows,
        TunedHeads as TunedHeads,
        current_rows as current_rows,
        projection as projection,
        rows_replaced as rows_replaced,
    )
    from interp.edits.head_scales import ScaledHeads as ScaledHeads, heads_scaled as heads_scaled
    from interp.edits.identity import (
        describe_model as describe_model,
        named_adapters as named_adapters,
        require_edits as require_edits,
        require_made_on as require_made_on,
        require_weights as require_weights,
    )
    from interp.edits.steering import (
        Steering as Steering,
        add_direction as add_direction,
        clamp_direction as clamp_direction,
        remove_direction as remove_direction,
        turn_towards as turn_towards,
    )

__getattr__, __dir__, __all__ = hands_on(__name__, __file__)

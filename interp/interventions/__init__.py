"""Edits of heads and streams as values, and as what acts in a pass."""

from typing import TYPE_CHECKING

from interp.door.faces import hands_on

if TYPE_CHECKING:
    from interp.interventions.acting import (
        edited as edited,
        stream_hook as stream_hook,
        stream_rewritten as stream_rewritten,
        unembed_only as unembed_only,
    )
    from interp.interventions.values import (
        Branch as Branch,
        EachHead as EachHead,
        Edit as Edit,
        HeadEdit as HeadEdit,
        Place as Place,
        ResidualEdit as ResidualEdit,
        ablate_each_head as ablate_each_head,
        patch_each_head as patch_each_head,
    )

__getattr__, __dir__, __all__ = hands_on(__name__, __file__)

"""Models whose heads are known: which way of finding heads finds them?"""

from typing import TYPE_CHECKING

from interp.door.faces import hands_on

if TYPE_CHECKING:
    from probes.known_answers.alterations import (
        ALTERATIONS as ALTERATIONS,
        has_backup as has_backup,
        logit_change as logit_change,
    )
    from probes.known_answers.suite import (
        KnownModel as KnownModel,
        known_models as known_models,
        load_known as load_known,
    )

__getattr__, __dir__, __all__ = hands_on(__name__, __file__)

"""Clean and corrupt prompts from files, as pairs that a model answers."""

from typing import TYPE_CHECKING

from interp.door.faces import hands_on

if TYPE_CHECKING:
    from probes.prompt_pairs.building import (
        BuiltPairs as BuiltPairs,
        build_pairs as build_pairs,
        pair_prompts as pair_prompts,
    )
    from probes.prompt_pairs.first_heads import record_of_sets as record_of_sets, require_sets as require_sets
    from probes.prompt_pairs.pair_rows import (
        PAIR_FORMATS as PAIR_FORMATS,
        PairRow as PairRow,
        load_prompt_pairs as load_prompt_pairs,
    )
    from probes.prompt_pairs.ranking import locate_heads as locate_heads
    from probes.prompt_pairs.written import TASKS as TASKS, written_pairs as written_pairs

__getattr__, __dir__, __all__ = hands_on(__name__, __file__)

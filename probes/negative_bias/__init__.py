"""Negative bias, the whole study: measure it, find the heads, test them, correct it, trace it to what the model knows.

The names that a user needs, in the order of a study. Sources: arXiv 2408.00137 (NAS, NASA) and arXiv 2511.10881
(parametric knowledge).
"""

from typing import TYPE_CHECKING

from interp.door.faces import hands_on

if TYPE_CHECKING:
    from probes.negative_bias.ability import edit_cost as edit_cost
    from probes.negative_bias.alignment_result import Alignment as Alignment
    from probes.negative_bias.answers import Answers as Answers, bias_measures as bias_measures
    from probes.negative_bias.asking import answer as answer
    from probes.negative_bias.bias_result import BiasReport as BiasReport
    from probes.negative_bias.causality import causal_test as causal_test
    from probes.negative_bias.corrections import Settings as Settings
    from probes.negative_bias.knowledge import sort_by_knowledge as sort_by_knowledge
    from probes.negative_bias.knowledge_result import Knowledge as Knowledge
    from probes.negative_bias.measures import measure as measure
    from probes.negative_bias.nas import (
        negative_attention_score as negative_attention_score,
        rank_by_effect as rank_by_effect,
        rank_heads as rank_heads,
    )
    from probes.negative_bias.nasa import align as align
    from probes.negative_bias.order_swap_result import OrderSwap as OrderSwap
    from probes.negative_bias.order_swap_study import order_swap as order_swap
    from probes.negative_bias.scenario_forms import ALL as ALL_SCENARIOS
    from probes.negative_bias.scenario_study import scenarios as scenarios
    from probes.questions import (
        Instruction as Instruction,
        Question as Question,
        build_prompts as build_prompts,
        load_questions as load_questions,
        load_texts as load_texts,
        split_questions as split_questions,
    )

__getattr__, __dir__, __all__ = hands_on(__name__, __file__)

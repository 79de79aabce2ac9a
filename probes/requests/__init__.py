"""Harmful and harmless requests, what a model says to them, and its states meanwhile."""

from typing import TYPE_CHECKING

from interp.door.faces import hands_on

if TYPE_CHECKING:
    from probes.requests.behaviour import (
        CITATIONS as CITATIONS,
        describe_requests as describe_requests,
        observe as observe,
    )
    from probes.requests.behaviour_result import GROUPS as GROUPS, Behaviour as Behaviour
    from probes.requests.classes import (
        TEXT_CLASSIFIERS as TEXT_CLASSIFIERS,
        require_both as require_both,
        separation as separation,
        surface_baselines as surface_baselines,
        words_of as words_of,
    )
    from probes.requests.judges import judge_agreement as judge_agreement, load_verdicts as load_verdicts
    from probes.requests.prompts import (
        build_request_prompts as build_request_prompts,
        positions_of as positions_of,
        same_ending as same_ending,
        until_instruction_end as until_instruction_end,
    )
    from probes.requests.refusal import (
        VERDICTS as VERDICTS,
        Judge as Judge,
        Verdict as Verdict,
        judge_by_phrases as judge_by_phrases,
        judge_replies as judge_replies,
        name_of as name_of,
        require_verdict as require_verdict,
    )
    from probes.requests.requests import (
        LEAST_REQUESTS as LEAST_REQUESTS,
        Kind as Kind,
        Request as Request,
        bare as bare,
        hash_of as hash_of,
        hash_requests as hash_requests,
        is_confounded as is_confounded,
        load_requests as load_requests,
        read_texts as read_texts,
        require_at_least as require_at_least,
        require_disjoint as require_disjoint,
        require_requests as require_requests,
        sample_requests as sample_requests,
        split_requests as split_requests,
        whole_pairs as whole_pairs,
        with_ending as with_ending,
    )
    from probes.requests.sets import RequestSets as RequestSets, divide_requests as divide_requests
    from probes.requests.states import (
        RequestStates as RequestStates,
        difference_of_means as difference_of_means,
        read_states as read_states,
        separation_by_position as separation_by_position,
        whitened_difference as whitened_difference,
    )

__getattr__, __dir__, __all__ = hands_on(__name__, __file__)

"""Harmfulness and refusal, the whole study: what a model refuses, what it knows of a request, and what moves the two.

The names that a user needs, in the order of a study (arXiv 2507.11878):

>>> model = interp.load("qwen2.5-coder-0.5b")
>>> sets = divide_requests(seed=0)  # shipped requests; half are kept back
>>> seen = observe(model, with_ending(sets.fit))  # replies, judged: harmful-refused, harmless-accepted, ...
>>> whole = whole_pairs(seen.requests)
>>> found = fit_directions(model, [r for r in whole if r.is_harmful], [r for r in whole if not r.is_harmful])
>>> held_out_scores(read_states(model, whole))[0]  # pairs judged by what others fitted, words beside it
>>> held_out = with_ending(sets.held_out)
>>> said = observe(model, held_out)
>>> tested = found.test(read_states(model, held_out), [said.group_of(i) for i in range(len(said))])
>>> found.to_findings({"held out": tested}).save("reports/directions")  # are they one direction or two?
>>> parts = split_requests(held_out, {"validation": 0.4, "test": 0.6})
>>> kinds = {n: [[r for r in p if r.is_harmful == harmful] for harmful in (True, False)] for n, p in parts.items()}
>>> swept = steering_sweep(model, found, *kinds["validation"], behaviour=seen)  # does adding one make it refuse?
>>> steering_test(model, swept, found, *kinds["test"]).save("reports/steering")
>>> attack(model, held_out, load_jailbreaks(), found).save("reports/jailbreaks")  # which of the two does one lower?
>>> rank_writers(model, held_out, found, "refusal").save("reports/writers")  # which heads write it?

The guard that follows from it has a face of its own: :mod:`probes.latent_guard`.
"""

from typing import TYPE_CHECKING

from interp.door.faces import hands_on

if TYPE_CHECKING:
    from probes.harmfulness.attacks import (
        attack as attack,
        attack_by_finetuning as attack_by_finetuning,
        find_suffixes as find_suffixes,
        load_jailbreaks as load_jailbreaks,
    )
    from probes.harmfulness.directions import (
        HarmfulDirections as HarmfulDirections,
        compare_protocols as compare_protocols,
        fit_directions as fit_directions,
        held_out_scores as held_out_scores,
        rank_writers as rank_writers,
    )
    from probes.harmfulness.steering import (
        SteeringArm as SteeringArm,
        invert as invert,
        standard_arms as standard_arms,
        steering_front as steering_front,
        test as steering_test,
        try_dimensions as try_dimensions,
    )
    from probes.harmfulness.steering.sweep import sweep as steering_sweep
    from probes.requests import (
        Behaviour as Behaviour,
        Request as Request,
        divide_requests as divide_requests,
        load_requests as load_requests,
        observe as observe,
        read_states as read_states,
        split_requests as split_requests,
        whole_pairs as whole_pairs,
        with_ending as with_ending,
    )

__getattr__, __dir__, __all__ = hands_on(__name__, __file__)

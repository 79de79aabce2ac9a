"""Harmfulness and refusal, the whole study: what a model refuses, what it knows of a request, and what moves the two.

The names that a user needs, in the order of a study (arXiv 2507.11878):

>>> model = interp.load("qwen2.5-coder-0.5b")
>>> sets = divide_requests(seed=0)  # shipped requests; half are kept back
>>> seen = observe(model, with_ending(sets.fit))  # replies, judged: harmful-refused, harmless-accepted, ...
>>> seen.require(("harmful-refused", "harmless-accepted"))
>>> found = fit_directions(model, seen.group("harmful-refused"), seen.group("harmless-accepted"))
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

from probes.behaviour import GROUPS, Behaviour, load_behaviour, observe
from probes.finetuning_attack import FineTuningStudy, Recipe, attack_by_finetuning, load_finetuning_study
from probes.gradient_suffixes import find_suffixes
from probes.harmful_directions import HarmfulDirections, compare_protocols, fit_directions
from probes.harmful_report import HeldOut
from probes.jailbreaks import (
    Jailbreak,
    JailbreakStudy,
    attack,
    load_jailbreak_study,
    load_jailbreaks,
)
from probes.refusal import judge_by_phrases
from probes.refusal_steering import SteeringStudy, load_steering_study
from probes.refusal_steering import sweep as steering_sweep
from probes.refusal_steering import test as steering_test
from probes.refusal_writers import rank_writers
from probes.reply_inversion import Inversion, InversionQuestion, invert, load_inversion
from probes.request_sets import RequestSets, divide_requests
from probes.request_states import RequestStates, read_states, separation_by_position, surface_baselines
from probes.requests import Request, load_requests, require_disjoint, sample_requests, split_requests, with_ending

__all__ = [
    "GROUPS",
    "Behaviour",
    "FineTuningStudy",
    "HarmfulDirections",
    "HeldOut",
    "Inversion",
    "InversionQuestion",
    "Jailbreak",
    "JailbreakStudy",
    "Recipe",
    "Request",
    "RequestSets",
    "RequestStates",
    "SteeringStudy",
    "attack",
    "attack_by_finetuning",
    "compare_protocols",
    "divide_requests",
    "find_suffixes",
    "fit_directions",
    "invert",
    "judge_by_phrases",
    "load_behaviour",
    "load_finetuning_study",
    "load_inversion",
    "load_jailbreak_study",
    "load_jailbreaks",
    "load_requests",
    "load_steering_study",
    "observe",
    "rank_writers",
    "read_states",
    "require_disjoint",
    "sample_requests",
    "separation_by_position",
    "split_requests",
    "steering_sweep",
    "steering_test",
    "surface_baselines",
    "with_ending",
]

# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What beats asking?
#
# **Question.** A direction that is added makes a model refuse. So does a sentence in its system prompt. In public comparisons the
# prompt wins (AxBench, arXiv 2501.17148). Does any way of steering refuse more harmful requests than asking does, and no more
# harmless ones?
#
# **Method.** Every way is an *arm*: a value that says how requests are asked and what is done to the model. Settings are searched on
# validation requests by first tokens alone: the log odds of refusing on harmful requests, KL to the untouched model on harmless ones.
# What nothing beats in both is the front; text that is broken is never on it. These points, and the best of each other arm, are tested
# on requests that chose nothing.

# %% tags=["plumbing"] jupyter={"source_hidden": true}
FAST = __import__("os").environ.get("HEADSCOPE_FAST") == "1"  # the tests run every cell on a few requests

# %%
MODEL = "smollm2-135m"
N_FIT, N_VALIDATION, N_TEST = (10, 2, 2) if FAST else (20, 4, 10)  # requests of a kind
N_TOKENS = 4 if FAST else 6

# %%
import warnings

import pandas as pd

import interp
from probes import harmfulness, latent_guard
from probes.harmfulness.steering.rivals import added_pairs, asked, conditional
from probes.requests import build_request_prompts

model = interp.load(MODEL)
pairs = harmfulness.with_ending(harmfulness.whole_pairs(harmfulness.load_requests()))
parts = harmfulness.split_requests(pairs, {"fit": 0.5, "validation": 0.1, "test": 0.4}, seed=0)


def both(part, n):
    """The first n requests of either kind."""
    return [[r for r in parts[part] if r.is_harmful == harmful][:n] for harmful in (True, False)]


# %%
harmful, harmless = both("fit", N_FIT)
behaviour = harmfulness.observe(model, harmful + harmless, max_new_tokens=N_TOKENS)
fitted = harmfulness.fit_directions(model, harmful, harmless)
behaviour.rates()[["kind", "n", "refused", "accepted"]]

# %% [markdown]
# ## Arms
#
# An arm is a function of the material (the model, the directions, the examples) and of its settings. One of your own stands beside
# the standard ones, which `harmfulness.standard_arms(model)` lists: a prompt, LoRA, differences of means, a subspace, a turn, a clamp,
# the direction removed, by hooks and in the weights, and steering on a condition.


# %%
def late(material, layer):
    """The pairs' difference at one layer, twice as large, on the last token alone."""
    return interp.add_direction(material.pairs, 2 * material.sign, layer, positions="answer")


layer = round(0.6 * model.n_layers)
arms = [
    harmfulness.SteeringArm("prompt", asked, {"wording": [1]}),
    harmfulness.SteeringArm("whole pairs", added_pairs, {"layer": [layer], "coefficient": [2.0, 4.0]}),
    harmfulness.SteeringArm(
        "conditional", conditional, {"layer": [layer], "coefficient": [4.0], "guard_from": [layer // 2]}
    ),
    harmfulness.SteeringArm("mine", late, {"layer": [layer]}),
]

# %%
front = harmfulness.steering_front(
    model,
    fitted,
    behaviour,
    [r for part in both("validation", N_VALIDATION) for r in part],
    [r for part in both("test", N_TEST) for r in part],
    arms=arms,
    n_read=N_VALIDATION,
    n_random=0,  # by default 20 random and 10 shuffled-label vectors stand beside each that is added
    n_shuffled=0,
    max_new_tokens=N_TOKENS,
)

# %% [markdown]
# ## The search
#
# To the left: harmless requests are answered as before. Up: more refusal on harmful ones.

# %%
front.plot("The search")

# %% [markdown]
# ## The test
#
# Replies, judged, on requests that neither made an arm nor chose a setting.

# %%
front.plot("Effect against harm")

# %%
shown = ["arm", "point", "kind", "n", "refused", "change", "kl", "moved", "fluent"]
front.to_frame()[shown].round(2)

# %% [markdown]
# *moved*: the share of requests whose first token's distribution changed at all. An arm that acts everywhere moves every one; a
# condition moves those that it lets through.

# %% [markdown]
# ## Steering on a condition
#
# A guard and a steering are one edit (after arXiv 2409.05907). It reads the request where it ends, in the pass that is steered, and
# steers only where the reading passes its threshold: row by row in a batch, once a request, kept for its reply.

# %%
guard = latent_guard.LatentGuard(model, "whitened").fit_states(fitted.states)
steering = interp.add_direction(fitted.refusal, 4.0, layer)
validation = [r for part in both("validation", max(N_VALIDATION, 10)) for r in part]
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always", latent_guard.ConditionWarning)
    edit = latent_guard.conditional_steering(guard, steering, validation, layers=range(layer // 2, layer + 1))
print(edit.summary())

# %%
import tempfile

with tempfile.TemporaryDirectory() as folder:
    again = interp.load_edit(edit.save(folder))
some = [r for part in both("test", 3) for r in part]  # ended as the guard's requests were
prompts = build_request_prompts(model, some)
plain = model.final_logits(prompts)
with again.apply(model):
    steered = model.final_logits(prompts)
held = again.condition.holds(model, prompts)
pd.DataFrame(
    {"request": [r.id for r in some], "steered": held, "largest change": (steered - plain).abs().amax(1)}
).round(3)

# %% [markdown]
# A row that does not pass is as it was, to rounding. Which rows pass is the guard's judgement, and one of so few examples errs.

# %% [markdown]
# It can't be written into weights, which act on every request, and says so:

# %%
try:
    edit.fold(model)
except ValueError as error:
    print(error)

# %% [markdown]
# ## What came out

# %%
print("\n".join(front.statement()))

# %% [markdown]
# **How to read it.**
#
# - "Beats asking" is a claim about pairs of replies to the same requests: more refusals of harmful requests, with an interval off zero,
#   and those of harmless requests not shown to differ. Nothing else counts.
# - By default each vector stands beside random and shuffled-label ones of its norm, with both signs; here they were left out.
# - A condition is as good as its guard: read how often it held, on either kind.
#
# **Limits.** The default model refuses little, and this run is small so that it ends while you look: it shows how the comparison is
# made. `interp steer --arms` makes it for a model and requests of your own, `tests/benchmarks/steering.py` for the models of this project.

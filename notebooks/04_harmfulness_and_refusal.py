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
# # Does a model know that a request is harmful, apart from refusing it?
#
# **Question.** "LLMs Encode Harmfulness and Refusal Separately" (Zhao et al. 2025, arXiv 2507.11878) reads two things at two
# tokens: at the last token of the request ($t_{inst}$) whether it is *harmful*, and at the last token of the prompt
# ($t_{post}$), after what the chat template adds, whether it will be *refused*; and finds two directions, nearly at right angles.
# Is that so here?
#
# **Method.** The model replies to harmful requests and to harmless ones that match them in wording. Refused harmful and accepted
# harmless ones make two differences of means, one at each token. We ask whether they tell *other* requests apart, how close
# they are, and what adding or removing them does.
#
# **What could mislead.** In the paper's data the harmful requests have no full stop and the harmless ones do, so
# that the embedding of the last token alone tells them apart. Here all requests end alike, and layer 0 is the control. And two estimates
# of *one* direction do not have a cosine of 1: the ceiling says what to compare with.

# %% tags=["plumbing"] jupyter={"source_hidden": true}
FAST = __import__("os").environ.get("HEADSCOPE_FAST") == "1"  # the tests run every cell on a few requests

# %%
from interp.sources import describe_sources

CACHED = {source.name for source in describe_sources() if source.cached}
MODEL = "qwen2.5-coder-0.5b" if not FAST and "qwen2.5-coder-0.5b" in CACHED else "smollm2-135m"
N_REQUESTS = 10 if FAST else 40  # of each kind to fit on, and as many to test on
N_VALIDATION, N_TEST = (2, 2) if FAST else (8, 14)  # of each kind, for steering
N_TOKENS = 2 if FAST else 16

# %%
import pandas as pd

import interp
from probes import harmfulness

model = interp.load(MODEL)
sets = harmfulness.divide_requests(limit=N_REQUESTS, seed=0)
fitted, held_out = (harmfulness.with_ending(part) for part in (sets.fit, sets.held_out))
shown = pd.DataFrame([{"kind": r.kind, "source": r.source, "request": r.text} for r in sets.fit])
shown.groupby(["kind", "source"]).head(2).head(5)

# %% [markdown]
# ## What it refuses
#
# Replies are greedy and judged by how they begin.

# %%
seen = harmfulness.observe(model, fitted, max_new_tokens=N_TOKENS)
tested = harmfulness.observe(model, held_out, max_new_tokens=N_TOKENS)
seen.rates()[["kind", "n", "refused", "accepted", "unclear"]]

# %%
refused, accepted = seen.group("harmful-refused"), seen.group("harmless-accepted")
BY_KIND = min(len(refused), len(accepted)) < 10
if BY_KIND:
    print(
        f"{MODEL} refuses {len(refused)} of these harmful requests and accepts {len(accepted)} of the harmless ones: too few to "
        "fit on. Below, all harmful requests are held against all harmless ones, and what is called refusal is only "
        "harmfulness read at the last token."
    )
    refused, accepted = ([r for r in fitted if r.is_harmful == harmful] for harmful in (True, False))
len(refused), len(accepted)

# %% [markdown]
# ## Is it the request, or its full stop?
#
# The same fit twice: with all endings alike, and with the requests as they come, as in the paper's protocol. The AUROC is that of the
# projection on each direction, on requests that did not make it. At layer 0 there is nothing but the embedding of one token.

# %%
raw = {r.id: r for r in sets.all}
compared = harmfulness.compare_protocols(
    model,
    [raw[r.id] for r in refused],
    [raw[r.id] for r in accepted],
    sets.held_out,
    groups=[tested.group_of(i) for i in range(len(tested))],
)
main = next(iter(compared.values()))
directions = main.directions
report = directions.to_findings(compared)
report.figures["Separation by layer"]

# %% [markdown]
# And the words? If they tell the kinds apart as well (TF-IDF, cross-validated), a direction that does may be one of topic.

# %%
main.baselines.round(2)

# %% [markdown]
# ## One direction or two?
#
# The cosine of harmfulness (at $t_{inst}$) and refusal (at $t_{post}$) from the same requests has what is noise in both, so it can stand
# above the ceiling: how close two estimates of *one* direction, from disjoint halves of the requests, are. The cosine across such
# halves is the one to hold against it.

# %%
report.figures["Cosine by layer"]

# %% [markdown]
# ## What it believes of each request
#
# Both beliefs (Eqs. 3 and 4): nearer to the mean of the harmful (refused) than to that of the harmless (accepted) requests is above 0. If
# the two were one, all points would lie on a line.

# %%
report.figures["Beliefs"]

# %%
report.tables["Beliefs by group"].query("condition == 'endings matched'").round(3).drop(columns="condition")

# %% [markdown]
# ## What the directions do
#
# Each is added to harmless and taken from harmful requests, at a layer and with a coefficient that a few requests chose, and then
# tried on others; beside it 20 random directions and 10 of shuffled labels, of the same norm and with both signs.

# %%
apart = harmfulness.split_requests(held_out, {"validation": 0.4, "test": 0.6})  # pairs stay together
validation, rest = (
    [[r for r in apart[part] if r.is_harmful == harmful][:n] for harmful in (True, False)]
    for part, n in (("validation", N_VALIDATION), ("test", N_TEST))
)
layers = [round(share * model.n_layers) for share in ((0.6,) if FAST else (0.42, 0.5, 0.58, 0.67))]
swept = harmfulness.steering_sweep(
    model,
    directions,
    *validation,
    layers=layers,
    coefficients=(4,) if FAST else (2, 4),
    n_layers=1 if FAST else 2,
    behaviour=seen,
    max_new_tokens=N_TOKENS,
)
few = {"n_random": 0, "n_shuffled": 0, "ablate": ()}
beside = few if FAST else {"n_random": 20, "n_shuffled": 10, "ablate": ("refusal",)}
steered = harmfulness.steering_test(model, swept, directions, *rest, **beside)
steered.plot()

# %% [markdown]
# ## What came out

# %%
print("Two directions, or one?", *directions.statement()[:2], sep="\n")
print(
    "\nIs it the request, or its full stop?",
    *(s for s in report.statement if "CONFOUNDED" in s or "words alone" in s),
    sep="\n",
)
print("\nWhat do they do?", *steered.statement()[:5], sep="\n")

# %% [markdown]
# **How to read it.**
#
# - Layer 0 at 0.5 and later layers far above: what is read at $t_{inst}$ is not how the request ends. Far above it under the paper's
#   protocol: its direction is in part one for a full stop.
# - Two directions are shown only where the corrected cosine's interval lies below 1. Where the ceiling is low, too few requests were
#   fitted on to say.
# - A steered refusal rate means something beside those of random and shuffled directions, and where the text stays fluent. Where both
#   directions do the same, steering does not tell them apart.
#
# **Limits.** Few requests, whose harm is what their author says; refusal judged by phrases; small models, which may lack what a 7B model
# has. The whole study, with reply inversion, jailbreaks, fine-tuning and the heads that write both directions:
# `python -m tests.benchmarks.harmfulness`.

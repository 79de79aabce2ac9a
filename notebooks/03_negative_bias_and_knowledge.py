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
# # Does the bias follow how the question is asked?
#
# **Question.** "A Multifaceted Analysis of Negative Bias in Large Language Models through the Lens of Parametric Knowledge"
# (Song, Yu, Yoon, arXiv 2511.10881) reports that models fall back on "No" when they do not know, that context and an "I
# don't know" option help, that chain of thought makes it worse, and that the format moves answers more than the
# meaning of the negative answer. Forty questions can say how much the form does. What knowledge does needs more questions that the
# model knows; the evaluation asked them, and its table is read below.
#
# **Method.** Each question also has an open form ("In what year ...?"). It is asked several times, greedily and sampled; what
# comes back sorts the question into *correct*, *incorrect* or *insufficient* knowledge. Then the same yes/no question
# is put in fifteen ways. The bias is
#
# $$\mathrm{NB} = P(\text{says No} \mid \text{gold Yes}) - P(\text{says Yes} \mid \text{gold No})$$
#
# 1 for a model that always says No, 0 for none, below 0 for one that leans to Yes. Definitions of the subsets and of NB are ours (the
# paper's could not be read).

# %% tags=["plumbing"] jupyter={"source_hidden": true}
FAST = __import__("os").environ.get("HEADSCOPE_FAST") == "1"  # the tests run every cell on a few questions

# %%
MODEL = "smollm2-135m"
N_QUESTIONS = 10 if FAST else 40

# %%
from pathlib import Path

import pandas as pd

import interp
from interp.figures.intervals import interval_bars
from probes import negative_bias

model = interp.load(MODEL)
questions = negative_bias.load_questions(limit=N_QUESTIONS, seed=0)

# %% [markdown]
# ## What the model knows

# %%
knowledge = negative_bias.sort_by_knowledge(model, questions, n_samples=1 if FAST else 3)
knowledge.plot()

# %%
knowledge.to_frame()[["open_question", "open_answer", "greedy", "label"]].head(5)

# %% [markdown]
# The labels hang on thresholds; this is how much: fewest and most questions of each, over the thresholds tried.

# %%
knowledge.sensitivity()[["correct", "incorrect", "insufficient"]].agg(["min", "max"])

# %% [markdown]
# ## Fifteen ways to ask

# %%
found = negative_bias.scenarios(
    model,
    questions,
    knowledge,
    which=("plain", "idk", "turned_round", "wrapped") if FAST else negative_bias.ALL_SCENARIOS,
    n_reasoning_tokens=32,
    min_per_class=2 if FAST else 10,
)
found.plot()

# %% [markdown]
# Where NB is at its ceiling, differences can't show in it. The log odds of "No" do not saturate:

# %%
found.plot("Log odds of No by scenario and knowledge")

# %% [markdown]
# ## The word or the meaning?
#
# Asked whether someone who said yes was *wrong*, the affirming answer is "No". A bias for the word "No" keeps its side; a bias
# for denying turns round. With two options A and B, what follows the letter is separated from what follows the content. For a model
# that always says No, word 1 and meaning 0 are arithmetic, so the log odds stand beside NB.

# %%
parts = found.parts().query("subset == 'all'")
rows = [
    parts[["part", "n"]].assign(scale=scale, value=parts[name], low=parts[f"{name}_low"], high=parts[f"{name}_high"])
    for name, scale in (("negative_bias", "NB"), ("log_odds_no", "log odds of No"))
]
interval_bars(pd.concat(rows), "part", "value", "low", "high", "scale", title="Parts of the bias", labels={"scale": ""})

# %% [markdown]
# ## What came out

# %%
print("\n".join(found.statement()))

# %% [markdown]
# And what knowledge does, on questions made so that a model of this size knows some: the evaluation's tables, model by model.

# %%
for table in sorted(Path("../tests/benchmarks/negative_bias").glob("*/insufficient.md")):
    said = table.read_text().split("## Verdict")[1].split("##")[0]
    print(table.parent.name, *(line for line in said.splitlines() if "knowledge is insufficient" in line), sep="\n")

# %% [markdown]
# **How to read it.** Each verdict is decided by its interval: *shown* and *reversed* exclude zero on either side, *not shown* holds
# it, *too few questions* means that a subset is too small to say. Where NB is at its ceiling the log odds decide.
#
# **Limits.** One model of 135 million parameters. The tables of both models: `tests/benchmarks/negative_bias`.

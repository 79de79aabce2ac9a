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

# %%
import os

FAST = os.environ.get("HEADSCOPE_FAST") == "1"  # the tests run every cell on a few questions
MODEL = "smollm2-135m"
N_QUESTIONS = 10 if FAST else 40

# %% [markdown]
# # Does the bias follow what the model knows, or how it is asked?
#
# **Question.** "A Multifaceted Analysis of Negative Bias in Large Language Models through the Lens of Parametric Knowledge"
# (Song, Yu, Yoon, arXiv 2511.10881) reports that models fall back on "No" when they do not know, that context and an "I
# don't know" option help, that chain of thought makes it worse, and that the format moves answers more than the
# meaning of the negative answer. Does a small model show the same?
#
# **Method.** Each question also has an open form ("In what year ...?"). It is asked several times, greedily and sampled; what
# comes back sorts the question into *correct*, *incorrect* or *insufficient* knowledge. Then the same yes/no question
# is put in fifteen ways. The bias is
#
# $$\mathrm{NB} = P(\text{says No} \mid \text{gold Yes}) - P(\text{says Yes} \mid \text{gold No})$$
#
# : +1 for a model that always says No, -1 for always Yes, 0 for none. Definitions of the subsets and of NB are ours (the
# paper's could not be read).

# %%
import interp
from probes import negative_bias

model = interp.load(MODEL)
questions = negative_bias.load_questions(limit=N_QUESTIONS, seed=0)

# %% [markdown]
# ## What the model knows

# %%
knowledge = negative_bias.sort_by_knowledge(model, questions, n_samples=1 if FAST else 3)
knowledge.counts()

# %%
knowledge.plot()

# %% [markdown]
# The labels hang on thresholds; this is how much.

# %%
knowledge.sensitivity()

# %%
knowledge.to_frame().head(6)

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

# %%
found.to_frame().head(20)

# %% [markdown]
# ## The word or the meaning?
#
# Asked whether someone who said yes was *wrong*, the affirming answer is "No". A bias for the word "No" keeps its side; a bias
# for denying turns round. With two options A and B, what follows the letter is separated from what follows the content.

# %%
found.parts()

# %% [markdown]
# ## The paper's claims, on this model

# %%
found.claims()

# %% [markdown]
# ## Reading
#
# Each verdict is decided by its interval: *shown* and *reversed* exclude zero on either side, *too few questions* means that a
# subset is too small to say. A model of 135 million parameters knows few of these answers, so the subset of correct
# knowledge is small; the larger run and the second model are in `tests/benchmarks/negative_bias`.

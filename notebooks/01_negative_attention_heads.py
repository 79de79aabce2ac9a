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
# # Which heads look at "No", whatever the question?
#
# **Question.** Small instruction-tuned models often answer "No" to yes/no questions, right or wrong. Is that because
# some attention heads attend to the word "No" in the instruction, whatever is asked? And if they attend to it, do
# they *push* the answer there?
#
# **Method.** The Negative Attention Score (NAS; Yu et al. 2025, arXiv 2408.00137) of a head sums over the tokens
# $i$ after the instruction
#
# $$\mathrm{NAS} = \sum_i \left(A_{i,\mathrm{Yes}} + A_{i,\mathrm{No}}\right) \log\frac{A_{i,\mathrm{No}}}{A_{i,\mathrm{Yes}}}$$
#
# where $A$ is the head's attention and *Yes*, *No* are the option words in the instruction. Above 0: more attention
# to "No". We rank every head by its mean over questions, turn the order of the options around as a control, and then
# measure what each head really does to the answer.

# %% tags=["plumbing"] jupyter={"source_hidden": true}
FAST = __import__("os").environ.get("HEADSCOPE_FAST") == "1"  # the tests run every cell on a few questions

# %%
MODEL = "smollm2-135m"
N_QUESTIONS = 6 if FAST else 100
SEED = 0

# %%
import interp
from interp.figures import head_heatmap, scatter, token_bars
from probes import negative_bias

model = interp.load(MODEL)
questions = negative_bias.load_questions(limit=N_QUESTIONS, seed=SEED)
model

# %% [markdown]
# One prompt, as the model reads it, and where its parts are. Positions come from the characters of the real chat
# template, never from counting by hand.

# %%
prompt = negative_bias.build_prompts(model, questions[:1])[0]
print(prompt.text)
print({name: [prompt.tokens[i] for i in prompt.span(name)] for name in ("positive", "negative", "question")})

# %% [markdown]
# ## The ranking
#
# Two forward passes for each question give NAS in both orders. The effects are exact: the fan-out scan ablates every
# head at the answer in about two forward passes' time.

# %%
ranking = negative_bias.rank_heads(model, questions, effects="zero")
columns = ["label", "score", "ci_low", "ci_high", "q", "nas_swapped_order", "nas_order_balanced", "total_effect"]
ranking.top(5)[columns].round(3)

# %%
ranking.plot()

# %%
ranking.plot_top(15)

# %% [markdown]
# ## The control: "No or Yes"
#
# The same questions with the options in each other's place. A head that looks for the *word* "No" stays above 0; a
# head that looks at the *later option* falls below.

# %%
frame = ranking.to_frame()
scatter(frame, "score", "nas_swapped_order")

# %%
balanced = ranking.by("nas_order_balanced")
balanced.top(5)[["label", "score", "ci_low", "ci_high", "nas", "nas_swapped_order"]].round(3)

# %% [markdown]
# ## What the heads do
#
# Looking is not doing. The *total* effect is what is lost of logit(No) - logit(Yes) at the answer when the head is
# ablated there; the *direct* effect is what the head itself writes toward it. Where the two differ, later layers
# use or undo what the head wrote.

# %%
scatter(frame, "direct_effect", "total_effect")

# %%
head_heatmap(
    ranking.measures["total_effect"].mean(0),
    title="What each head adds to logit(No) - logit(Yes) at the answer",
    unit="logits",
)

# %%
strongest = ranking.by("total_effect").top(5)
strongest[["label", "score", "ci_low", "ci_high", "q", "nas", "direct_effect"]].round(3)

# %% [markdown]
# ## Signed reasons on a prompt
#
# For the top head: what it reads from each token toward "No" (attention x value x output, summing to the head's direct
# effect on this prompt).

# %%
layer, head = ranking.select(top=1)[0]
token_bars(ranking.views[0], (layer, head))

# %% [markdown]
# ## What came out

# %%
print(*ranking.to_findings().statement, sep="\n")
print("\nDo heads that look at 'No' push there?")
for order in (ranking, balanced):
    print(interp.compare_rankings([order, ranking.by("total_effect")]).statement()[0])

# %% [markdown]
# **How to read it.** A reliable ranking is not yet an explanation. The split-half reliability says that the same heads would come out on
# other questions; the swapped order says how much of that is a preference for the later option; and the effects say
# whether attention to a word tells of what a head adds to the answer. Read the three together.
#
# ## Limits
#
# - The paper's exact limits of the sum were not available; here it runs over every token after the instruction.
# - Effects are of edits at the answer position alone. What a head does at earlier positions needs
#   `positions="all"` in `interp.scan`.
# - One instruction wording and one small model. Whether the heads are the *cause* of the bias needs ablation of sets
#   of heads against random heads.

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
# # Correcting a bias: are the suspects guilty, and does tuning them help?
#
# **Question.** A model that answers "No" to nearly everything has high precision and no recall. Notebook 01 ranks
# the heads that look at "No". Here we ask whether they *cause* the bias, then tune only them (NASA, "Negative Attention
# Score Alignment", Yu et al. 2025, arXiv 2408.00137), beside rivals that any such method should be compared with.
#
# **What would convince us.** That editing the top heads moves the bias more than editing random heads of the same
# layers. And that after tuning, on questions that no method saw, the negative bias NB is gone *and* the model is right more often
# than before, than a coin and than with a constant added to the logit of "Yes". NB is P(says No | gold Yes) -
# P(says Yes | gold No). The gap of precision and recall, which the paper closes, is not enough: it is 0 also for a model whose few
# Yes are all wrong, and undefined for one that never says Yes.

# %% tags=["plumbing"] jupyter={"source_hidden": true}
FAST = __import__("os").environ.get("HEADSCOPE_FAST") == "1"  # the tests run every cell on a few questions

# %%
MODEL = "smollm2-135m"
N_TRAIN, N_VALIDATION, N_TEST = (20, 20, 10) if FAST else (120, 60, 100)

# %%
import pandas as pd
import torch

import interp
from probes import negative_bias

model = interp.load(MODEL)
questions = negative_bias.load_questions()  # shipped: five domains, half Yes
seen = [q for q in questions if q.domain in ("facts", "arithmetic", "common_sense")]
unseen = [q for q in questions if q.domain not in ("facts", "arithmetic", "common_sense")]
parts = negative_bias.split_questions(seen, {"training": 0.65, "validation": 0.35})
training, validation, held_out = parts["training"][:N_TRAIN], parts["validation"][:N_VALIDATION], unseen[:N_TEST]
{name: len(part) for name, part in {"training": training, "validation": validation, "held out": held_out}.items()}

# %% [markdown]
# ## The bias
#
# *Token*: the most probable first token; *text*: what the model writes; *margin*: the likelier of Yes and No. An answer
# outside the options is counted, never guessed.

# %%
report = negative_bias.measure(model, held_out)
report.plot()

# %%
print("\n".join(report.statement()))
report.agreement()

# %% [markdown]
# ## The suspects, tested
#
# The top k heads by NAS are edited together at the answer (zeroed, replaced by their mean, halved), and so are random
# heads of the same layers, and the bottom k. The margin is log P(No) - log P(Yes).

# %%
ranking = negative_bias.rank_heads(model, training[: 6 if FAST else 40], n_views=0)
test = negative_bias.causal_test(
    model,
    validation[: 4 if FAST else 20],
    ranking,
    ks=(1, 5) if FAST else (1, 5, 20),
    edits=("zero",) if FAST else ("zero", "mean"),
    n_random=4 if FAST else 20,
)
test.plot("Change of mean margin (log odds of the negative answer), at the answer")

# %%
test.plot("Change of negative bias, at the answer")

# %% [markdown]
# ## NASA, and its rivals
#
# One head after another in descending NAS: only its query rows move, until its NAS is 0, validation gets worse, or the gap
# between precision and recall is closed; an update that left validation worse is cancelled. The rivals get the same
# questions and the same stop: random heads with as many steps, LoRA on every query and key projection, factors
# on the heads' outputs, and a constant added to the margin of Yes.

# %%
settings = negative_bias.Settings(k=1, steps=2, batch_size=4, check_every=2) if FAST else negative_bias.Settings()
rivals = ("constant offset",) if FAST else ("random heads", "LoRA", "scaled heads", "constant offset")
nasa = negative_bias.align(model, training, validation, ranking=ranking, settings=settings, rivals=rivals)
nasa.methods_table().round(2)

# %%
nasa.plot()

# %% [markdown]
# ## Questions that no method saw
#
# Other domains than those of training. *Always No* and *a coin* need no model; *auroc* is what the model can tell apart, which no
# constant changes.

# %%
columns = ["method", "n", "negative_bias", "accuracy", "accuracy_change", "auroc", "says_yes", "target"]
found = nasa.test(model, {"unseen domains": held_out})
found[columns].round(2)

# %%
from interp.figures.intervals import interval_bars

both = [
    found[["method", "n"]].assign(measure=name, value=found[name], low=found[f"{name}_low"], high=found[f"{name}_high"])
    for name in ("negative_bias", "accuracy")
]
interval_bars(pd.concat(both), "method", "value", "low", "high", "measure", title="Held out", labels={"measure": ""})

# %% [markdown]
# ## The correction travels
#
# NASA's result is an edit: a few query rows, bound to the weights they were made for. Folded and exported, the model loads in
# plain transformers with no code of ours.

# %%
import tempfile
from pathlib import Path

from transformers import AutoModelForCausalLM

print(nasa.edit.summary())
prompts = negative_bias.build_prompts(model, held_out[:4])
with nasa.edit.apply(model):
    hooked = model.final_logits(prompts)
with tempfile.TemporaryDirectory() as folder:
    exported = nasa.edit.export(model, Path(folder) / "corrected")
    plain = AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32).eval()
with torch.no_grad():
    folded = torch.stack([plain(torch.tensor([p.token_ids])).logits[0, -1] for p in prompts])
print(f"largest difference of the logits, folded against hooked: {(folded - hooked).abs().max():.1e}")

# %% [markdown]
# ## What came out

# %%
from probes.negative_bias.alignment_report import target_sentences

print("Guilty?", *test.statement()[:1], sep="\n")
print("\nDoes tuning them help?", *target_sentences(found), sep="\n")

# %% [markdown]
# **How to read it.** Where the top heads move the margin no more than random ones, or move it the other way, NAS has not found causes;
# tuning them can move the bias all the same, because query rows of many heads can. A method that takes NB to 0 and leaves accuracy
# where a coin is has moved answers, not knowledge. The margin is in natural logs.
#
# **Limits.** One small model, one wording, shipped questions. The same on StrategyQA, GSM8K, AR-LSAT, unseen wordings and a second
# model: `tests/benchmarks/negative_bias`.

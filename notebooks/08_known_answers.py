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
# # Which way of finding heads finds the heads that are there?
#
# **Question.** "Which heads matter?" is answered by removing each head, by patching it, by a gradient, by what it looks at. On a real
# model nobody knows which answer is right. Here are models in which it is known: which ways find their heads, and what misleads them?
#
# **Method.** Programs compiled to weights (Tracr, Lindner et al. 2023, arXiv 2301.05062), and small transformers trained so that one
# given head carries each variable of a task (after Gupta et al. 2024, arXiv 2407.14494). Then alterations that leave every logit as it
# is and mislead some ways. A way is scored by AUROC: 1 where every head that matters is ranked before every other.

# %% tags=["plumbing"] jupyter={"source_hidden": true}
FAST = __import__("os").environ.get("HEADSCOPE_FAST") == "1"  # the tests run every cell on a few pairs

# %%
MODELS = ["two_hops", "comparison-llama-0"] if FAST else ["two_hops", "three_hops", "just_one", "comparison-llama-0"]
N_PAIRS = 6 if FAST else 20
WAYS = ["auto", "zero", "direct"] if FAST else ["auto", "mean", "zero", "patch", "direct", "attribution_patching"]
N_RANDOM = 5 if FAST else 20

# %%
import pandas as pd

from interp.locating import locate
from interp.statistics import Estimate
from probes.known_answers import ALTERATIONS, load_known
from probes.known_answers.scoring import auroc, mean_interval

known = load_known("two_hops")
pairs = known.pairs(N_PAIRS)
ranking = locate(known.model, pairs)
print(known)
ranking.to_frame()[["label", "score", "ci_low", "ci_high"]].head(5).round(2)

# %% [markdown]
# The program finds a letter by two hops; the first heads of the ranking are its heads. The other heads are there too, busy with what
# nobody reads.

# %% [markdown]
# ## Every way, as the models are and altered

# %%
conditions = {"unaltered": lambda base: base, **{k: ALTERATIONS[k] for k in ("constant moved", "cancelling pair")}}
rows = []
for name in MODELS:
    base = load_known(name)
    for condition, alter in conditions.items():
        altered = alter(base)
        counts, given = altered.counts.ravel(), altered.pairs(N_PAIRS)
        for way in WAYS:
            at = "answer" if way == "direct" else "all"
            found = locate(altered.model, given, way, positions=at, check=0, warn=False)
            score = auroc(found.scores.mean(0).ravel()[counts], altered.truth.ravel()[counts])
            rows.append({"model": name, "condition": condition, "way": way, "AUROC": score})
scores = pd.DataFrame(rows)
scores.pivot_table("AUROC", "way", "condition", aggfunc="min")[list(conditions)].loc[WAYS].round(2)

# %%
from interp.figures.intervals import interval_bars

bars = []
for (way, condition), group in scores.groupby(["way", "condition"], sort=False):
    value, low, high = mean_interval([[score] for score in group["AUROC"]])
    bars.append({"way": way, "condition": condition, "AUROC": value, "low": low, "high": high})
interval_bars(
    pd.DataFrame(bars), "way", "AUROC", "low", "high", color="condition", title="Heads found, by way and alteration"
)

# %% [markdown]
# The table has the worst model of each cell, the bars the mean over models with its interval. Zero ablation takes a constant for a
# function; two heads that cancel look important one at a time; direct attribution sees nothing that acts through later layers.

# %% [markdown]
# ## What a ranking says of itself
#
# At the answer's position alone, heads that act earlier are not seen. A ranking looks at a few prompts once more and says so.

# %%
hops = load_known("three_hops")
beside = {
    "zero at the answer": locate(hops.model, hops.pairs(N_PAIRS), "zero", positions="answer", check=0),
    "auto at all positions": locate(hops.model, hops.pairs(N_PAIRS), check=0),
    "auto, one variable constant in each pair": locate(hops.model, hops.pairs(N_PAIRS, constant="hop_1"), check=0),
}
for which, found in beside.items():
    print(f"{which}: {' '.join(found.provenance['beside']) or 'nothing to say'}")

# %% [markdown]
# ## From heads to the circuit
#
# Is the set enough, and is it needed? Random sets of the same layers stand beside it.

# %%
from interp.circuits import CircuitGraph, faithfulness, minimal_set, patch_paths, weigh_set

circuit, kept = minimal_set(known.model, pairs, ranking)
weighed = weigh_set(known.model, pairs, circuit, n_random=N_RANDOM)
faithfulness(known.model, pairs, ranking).plot()

# %% [markdown]
# And which head tells which, by what? A path is patched exactly: the sender gives what it gives on the corrupt prompt, everything between
# stays as it is, and one part of the receiver reads the difference.

# %%
paths = patch_paths(known.model, pairs, circuit)
graph = CircuitGraph.from_paths(paths)
paths.to_frame().head(6).round(2)

# %%
graph.plot()

# %% [markdown]
# ## What came out

# %%
for way in WAYS:
    groups = [group["AUROC"].tolist() for _, group in scores[scores["way"] == way].groupby("model")]
    value = Estimate(*mean_interval(groups))
    worst = scores[scores["way"] == way]["AUROC"].min()
    n = len(scores) // len(WAYS)
    print(f"{way}: mean AUROC {value:.2f}, worst {worst:.2f} (n = {n} models and conditions)")
print("\n".join(weighed.statement()))
print(
    f"The set keeps {kept:.0%} and has {len(circuit)} heads, {len(set(circuit) & set(known.heads.values()))} of the program's."
)

# %% [markdown]
# **Limits.** These models are small and were made: a head of a real model may do several things, and a circuit may have no edge. What
# misleads a way here will mislead it there; that nothing misleads it here proves nothing. All of the suite, every way, and what each
# takes for granted: docs/methods/known-answers.md.

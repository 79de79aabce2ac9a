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

from interp.sources import describe_sources

FAST = os.environ.get("HEADSCOPE_FAST") == "1"  # the tests run every cell on a few examples
CACHED = {source.name for source in describe_sources() if source.cached}
REFUSER = "qwen2.5-coder-0.5b" if not FAST and "qwen2.5-coder-0.5b" in CACHED else "smollm2-135m"
N_FIND, N_TEST, N_ASKED, N_SCENES, N_REQUESTS = (10, 10, 10, 8, 10) if FAST else (32, 60, 40, 20, 40)

# %% [markdown]
# # The tour: four systems in ten minutes
#
# headscope ranks the heads of a model by what they do, fits directions, changes both, and says how sure it is. This notebook
# shows each of its four systems once, on models that run on a laptop's CPU, and then takes an edit away to another machine.
# Samples are small, so intervals are wide. Every section names the notebook that asks the same question in full. All of it takes six
# minutes of one slow core.
#
# Hover over a figure for numbers and, in the maps of heads, the example in which a head's score is most extreme. Blue is below zero,
# orange above. Figures have no background of their own and read on light and on dark pages;
# `figure.update_layout(template=TEMPLATES["dark"])` fits one to a known background (`interp.figures`).

# %%
import random
import tempfile

import numpy as np
import pandas as pd

import interp
from interp.figures.heads import interval_bars
from interp.statistics import Estimate, wilson_share
from probes import harmfulness, latent_guard, negative_bias, visual_semantics as vs

pd.options.display.max_colwidth = 100
model = interp.load("smollm2-135m")
model

# %% [markdown]
# ## 1. Negative bias: which heads look at "No", and which push there?
#
# Asked "Answer the question with Yes or No.", SmolLM2 says No to nearly everything. The Negative Attention Score (NAS; arXiv
# 2408.00137) of a head is high where it attends to the word "No" and not to "Yes".

# %%
questions = negative_bias.load_questions(limit=N_FIND + N_TEST, seed=0)  # shipped, half of them Yes
share = N_FIND / len(questions)
parts = negative_bias.split_questions(questions, {"find": share, "test": 1 - share})
ranking = negative_bias.rank_heads(model, parts["find"], effects="zero", n_views=0)
texts = {question.id: question.text for question in questions}
ranking.plot(texts=texts)

# %%
ranking.top(5)[["label", "score", "ci_low", "ci_high", "q", "nas_swapped_order", "total_effect"]].round(3)

# %% [markdown]
# *nas_swapped_order* is the control: the same question as "No or Yes". *total_effect* is what the head adds to
# logit(No) - logit(Yes) at the answer, exactly. A head that looks at "No" need not push there. So the correction takes the two heads
# that push most, wherever they look, and turns them down: how far is chosen on the questions of the ranking.
# (How many was fixed by the author after trying 1, 2, 3, 5 and 8, so read the numbers as an illustration.)

# %%
push = ranking.by("total_effect").select(top=2)
described, draw = interp.describe_model(model), random.Random(0)


def scaled(pairs, factor):
    return interp.ScaledHeads(described, {"from": "00_tour"}, dict.fromkeys(pairs, factor))


def bias(edit, asked):
    """Negative bias and other measures of the first token, with an edit."""
    with edit.apply(model):
        found = negative_bias.measure(model, asked, generate_tokens=0).to_frame()
    return found[(found["domain"] == "all") & (found["channel"] == "token")].set_index("measure")


factors = (0.0,) if FAST else (0.75, 0.5, 0.25, 0.0)
tried = {factor: float(bias(scaled(push, factor), parts["find"]).loc["negative_bias", "value"]) for factor in factors}
factor = min(tried, key=lambda factor: abs(tried[factor]))
tried

# %% [markdown]
# And then tested on others, beside random heads of the same layers, turned down as far.

# %%
quiet = scaled(push, factor)
edits = {"untouched": interp.Edits(()), "the two heads": quiet}
for i in range(1 if FAST else 2):
    others = [(layer, draw.choice([h for h in range(model.n_heads) if h != head])) for layer, head in push]
    edits[f"random heads {i + 1}"] = scaled(others, factor)
tested = {name: bias(edit, parts["test"]) for name, edit in edits.items()}
names = {"negative_bias": "negative bias", "accuracy": "accuracy", "auroc": "AUROC"}
rows = [tested[edit].loc[[name]].assign(edit=edit, measured=text) for name, text in names.items() for edit in edits]
title = f"Two heads times {factor:g}: {len(parts['test'])} other questions"
interval_bars(pd.concat(rows), "edit", "value", "ci_low", "ci_high", "measured", title=title, labels={"measured": ""})

# %%
turned = int((ranking.top(10)["nas_swapped_order"] < 0).sum())
print(f"{turned} of the first 10 heads by NAS turn their sign in the swapped order (n = {ranking.n_examples}).")
print(quiet.summary())
for name, text in {**names, "option_mass": "probability of Yes and No together"}.items():
    ends = ["value", "ci_low", "ci_high"]
    before, after = (Estimate(*tested[edit].loc[name, ends]) for edit in ("untouched", "the two heads"))
    print(f"{text}: {before:.2f} untouched, {after:.2f} with the edit (n = {len(parts['test'])})")

# %% [markdown]
# An edit that moves the bias and leaves accuracy and AUROC (what the model can tell apart) where they were has moved answers, not
# knowledge; the last line says how much of the probability still goes to Yes and No. Two random pairs are a glance, not a test. Deeper: [every head in both
# orders](01_negative_attention_heads.ipynb); [a test against 20 random sets, and NASA, which tunes the heads](02_nasa.ipynb).
#
# ## 2. Knowledge: does the bias follow what the model knows, or how it is asked?
#
# Each question also has an open form. Asked that way, once greedily and twice sampled, the model knows the answer, has another, or
# has none (after arXiv 2511.10881). These are questions of one domain, facts, of which it knows enough to compare.

# %%
facts = [question for question in negative_bias.load_questions(seed=1) if question.domain == "facts"][:N_ASKED]
knowledge = negative_bias.sort_by_knowledge(model, facts, n_samples=1 if FAST else 2)
print(knowledge.counts().tail(1).to_string(index=False))
knowledge.to_frame()[["open_question", "open_answer", "greedy", "label"]].head(5)

# %% [markdown]
# Then the yes/no question is put in several ways: with the fact that answers it (*relevant passage*), with "I don't know" as a third option
# (*idk*), *turned round*, so that the affirming answer is the word "No", and with letters for answers (*multiple choice*). Above 0 the
# model leans to denying, below to affirming.

# %%
forms = ("plain", "turned_round") if FAST else ("plain", "relevant_passage", "idk", "turned_round", "multiple_choice")
scenarios = negative_bias.scenarios(model, facts, knowledge, which=forms, min_per_class=2 if FAST else 5)
scenarios.plot("Log odds of No by scenario and knowledge")

# %%
claims = scenarios.claims()
columns = ["claim", "subset", "n", "log_odds_no", "log_odds_no_low", "log_odds_no_high", "log_odds_verdict"]
claims[(claims.index == 0) | (claims["subset"] == "all")][columns].dropna().round(2)

# %%
of_bias = scenarios.parts().set_index(["subset", "part"]).loc["all"]
for name in ("word", "meaning"):
    row = of_bias.loc[f"{name} part (plain, turned_round)"]
    value = Estimate(row["negative_bias"], row["negative_bias_low"], row["negative_bias_high"])
    print(f"{name} part of NB: {value:.2f} (n = {len(facts)}; 1: it always denies, -1: it always affirms)")

# %% [markdown]
# The verdicts are of the paper's claims, on this model: the log odds do not saturate, NB does. A word part of 1 and a meaning part of 0
# is a model that says No whatever is asked. Deeper: [fifteen ways to ask](03_negative_bias_and_knowledge.ipynb).
#
# ## 3. Pictures: which heads read what?
#
# `scenes-llava-tiny` travels with the package: LLaVA's architecture, 4 layers of 8 heads, trained on drawn scenes. Scenes are drawn, so
# an edit changes one fact and nothing else, and its mask is exact.

# %%
from interp.overlays import pair_figure, read_head_maps

tiny = interp.load("scenes-llava-tiny")
pair = next(iter(vs.edited_pairs("test", 1, difficulty="easy", level="attribute", kind="open")))
pictures = [vs.render(scene, 96).image for scene in (pair.before, pair.after)]
before, after = vs.scene_examples(tiny, [(scene, [pair.question]) for scene in (pair.before, pair.after)], 96)
said = [tiny.tokenizer.decode(int(row.argmax())) for row in tiny.final_logits([before.prompt, after.prompt])]
captions = tuple(
    f"{when}: the model says {word.strip()!r}" for when, word in zip(("before", "after"), said, strict=True)
)
pair_figure(*pictures, pair.region, captions, pair.question.text)

# %% [markdown]
# Every head is replaced by the mean of the others of its layer, on questions of three levels. *D* is what it adds to the probability
# of the right answer (after V-SEAM, arXiv 2509.14837). Framed: the first ten of each level.

# %%
examples = vs.scene_examples(tiny, vs.scene_split("test", N_SCENES, difficulty="easy"))
heads = vs.rank_visual_heads(tiny, examples, batch_size=16)
report = heads.to_findings()
report.figures["D of each head, by level"]

# %%
tables = [heads.table("signed_drop", level).head(2).assign(level=level) for level in heads.levels]
best = pd.concat(tables, ignore_index=True)
best[["level", "label", "n", "score", "score_low", "score_high", "q"]].head(5).round(3)

# %% [markdown]
# Where on the picture do heads look, and what do they read there? Of all heads, the two that read most for the answer to the first
# picture against that to the second.

# %%
metric = interp.LogitDifference(pair.answer_before, pair.answer_after)
every = list(np.ndindex(tiny.n_layers, tiny.n_heads))
read = read_head_maps(tiny, before.prompt, every, metric).contribution.sum((1, 2))
most = [every[i] for i in np.argsort(-read)[:2]]
read_head_maps(tiny, before.prompt, most, metric, pair.question.text).plot(pictures[0])

# %%
print(f"Right on {int(heads.is_correct.sum())} of {len(heads.asked)} questions about {N_SCENES} pictures.")
for row in best.groupby("level", sort=False).head(1).itertuples():
    value = Estimate(row.score, row.score_low, row.score_high)
    print(f"{row.level}: {row.label} comes first, D {value:.2f}, n = {row.n}")

# %% [markdown]
# Where the same heads come first at every level, they carry the picture and not a kind of meaning. A coloured patch is where a head
# *reads*: the vision tower mixes patches, so that need not be where the thing is. Deeper: [overlap, ablation across
# levels, causal tracing, modulation](06_vseam.ipynb).
#
# ## 4. Harmfulness and refusal: one direction or two?
#
# After arXiv 2507.11878, harmfulness is read at the last token of the request, refusal at the last token of the prompt. All
# requests end alike here: in the paper's data the full stop alone tells harmful from harmless. SmolLM2 refuses nothing, so this section
# takes Qwen2.5-Coder-0.5B where it is in the cache (`interp models`).

# %%
refuser = model if model.name == REFUSER else interp.load(REFUSER)
sets = harmfulness.divide_requests(limit=N_REQUESTS, seed=0)  # shipped; most harmful ones have a harmless twin
fitted = harmfulness.with_ending(sets.fit)
seen = harmfulness.observe(refuser, fitted, max_new_tokens=2 if FAST else 12)
print(REFUSER, *seen.statement(), sep="\n")

# %%
refused, accepted = seen.group("harmful-refused"), seen.group("harmless-accepted")
if min(len(refused), len(accepted)) < 10:
    print("Too few harmful ones refused or harmless ones accepted: all harmful are held against all harmless ones.")
    refused, accepted = ([r for r in fitted if r.is_harmful == harmful] for harmful in (True, False))
directions = harmfulness.fit_directions(refuser, refused, accepted)
guard = latent_guard.LatentGuard(refuser, "probe").fit(sets.fit)  # harmful against harmless, whatever was refused
states = guard.read(sets.held_out)
report = directions.to_findings({"held out": directions.test(states)})
report.figures["Cosine by layer"]

# %%
report.figures["Separation by layer"]

# %% [markdown]
# A guard is the same reading, turned into a classifier: at 0 and above, it calls a request harmful.

# %%
harmful = np.array([request.is_harmful for request in sets.held_out])
score = guard.decision_states(states)
table = pd.DataFrame({"pair": [r.pair for r in sets.held_out], "request": [r.text for r in sets.held_out]})
table = table.assign(harmful=harmful, guard=score.round(2))
twins = table[table.duplicated("pair", keep=False) & (table["pair"] != "")].sort_values("pair", kind="stable")
twins.head(5).drop(columns="pair").reset_index(drop=True)

# %%
mean = directions.agreement.mean
caught, spared = (wilson_share((score >= 0)[harmful == kind] == kind) for kind in (True, False))
corrected = Estimate(mean["disattenuated"], mean["disattenuated_low"], mean["disattenuated_high"])
print(f"Directions of {len(refused)} refused harmful and {len(accepted)} accepted harmless requests, mean of layers:")
print(
    f"cosine across disjoint halves {mean['across_halves']:.2f}, ceiling {mean['ceiling']:.2f}, corrected {corrected:.2f}"
)
print(f"guard, held out: {caught:.0%} of {int(harmful.sum())} harmful requests called harmful,")
print(f"{spared:.0%} of {int((~harmful).sum())} harmless ones called harmless")
print(report.statement[0], next(sentence for sentence in report.statement if "words alone" in sentence), sep="\n")

# %% [markdown]
# The upper line of the first figure is of all requests at once: both directions come from the same requests, and what is noise in one is
# noise in the other. Only the two lower lines answer the question. Where the corrected interval holds 1, two directions can't be told from
# one, and where the ceiling is low the number can mean nearly anything. Deeper: [both directions, controls,
# steering](04_harmfulness_and_refusal.ipynb); [the guard beside words alone and the model asked](05_latent_guard.ipynb).
#
# ## 5. Take it with you
#
# The edit of section 1 is a value that knows its weights. Saved and loaded, it is written into them: the folded model must give
# the logits that hooks gave, or nothing is changed. What comes back is the edit that undoes it.

# %%
prompts = negative_bias.build_prompts(model, parts["test"][:4])
untouched = model.final_logits(prompts)
with tempfile.TemporaryDirectory() as folder:
    quiet.save(folder)
    loaded = interp.load_edit(folder)
with loaded.apply(model):
    hooked = model.final_logits(prompts)
undo = loaded.fold(model)
folded = model.final_logits(prompts)
print(loaded.summary())
for name, other in {"hooked": hooked, "untouched": untouched}.items():
    print(f"folded against {name}: {(folded - other).abs().max():.1e} logits at most (n = {len(prompts)} prompts)")

# %% [markdown]
# Does the edited model look elsewhere? NAS of the model before and after the edit, and beside them what heads do: the total effect of
# section 1. Any number of rankings can stand on one page, also of different models.

# %%
edited = negative_bias.rank_heads(model, parts["find"], n_views=0)
compared = interp.compare_rankings(
    [ranking, edited, ranking.by("total_effect")], ["NAS", "NAS of the edited model", "total effect"]
)
compared.to_findings().figures["Mean score of every head"]

# %%
print("\n".join(compared.statement()[:2]))
undo.fold(model)
print(f"taken back: {bool((model.final_logits(prompts) == untouched).all())}")

# %% [markdown]
# `edit.export(model, "smollm2-quiet")` writes a directory that plain transformers loads, and `interp edit` does all of this on the
# command line.
#
# ## Reading
#
# - Shown: where heads look says little of where they push; turning two heads down moves a bias, and is not seen to make the model wiser;
#   the form of a question decides more than its meaning.
# - Not shown: that these two heads are *the* cause, that knowledge never matters, that harmfulness and refusal are two directions, or
#   that any of it holds in larger models. The samples here are for looking, not for claims.
#
# Known limits and methods are in the documentation; every measured number is in `tests/benchmarks`.

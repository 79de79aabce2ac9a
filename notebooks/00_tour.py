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
# # The tour: which heads make a model say No, and what happens when they are turned down?
#
# **Question.** Asked whether water is wet, a small model says No. Which of its attention heads are to blame, does the answer change when
# they are turned down, and is that more than a trick on one question?
#
# The first cells show the answer flip and let you turn heads yourself. Then come four systems, one section each: negative bias, knowledge,
# pictures, harmfulness and refusal; and at the end an edit is taken to another machine. Samples are small, so intervals are wide: every
# section names the notebook that asks the same question in full. It all runs on a laptop's CPU, in about six minutes of one slow core.

# %% tags=["plumbing"] jupyter={"source_hidden": true}
FAST = __import__("os").environ.get("HEADSCOPE_FAST") == "1"  # the tests: few examples

# %%
import interp

model = interp.load("smollm2-135m")
model

# %% [markdown]
# ## Two heads, and the answer flips
#
# `explore` runs the prompt once for each head with the head off, halved and turned up, and keeps where each head looks.

# %%
ask = "Answer with Yes or No. Is water wet?"
prompt = model.prompt(ask, answers=("No", "Yes"), id="water")
found = interp.explore(model, [prompt])
found.turned({})  # nothing is turned: the model as it is

# %% [markdown]
# Which heads push toward No? The effect of a head is what the log odds of No against Yes lose without it: exact, for all heads at once.

# %%
effects = interp.scan(model, [prompt], interp.ablate_each_head("zero"))
effects.top(3)[["label", "score", "n"]].round(3)

# %% [markdown]
# The first two, off:

# %%
two = effects.top(2)["label"]
found.turned(dict.fromkeys(two, 0.0))

# %% [markdown]
# Two heads were chosen on a question and turned on the same question: that they flip it shows how it is done, not what they are for. Section 1
# chooses on some questions and tests on others.
#
# Now turn heads yourself. In a notebook with the model at hand the sliders ask the model; click a head to see where it looks. (Where
# no widget can be shown, the map of heads stands in its place; `found.save_explorer("heads.html")` writes the whole as one file.)

# %%
found

# %% [markdown]
# Hover over a figure for numbers and, in the maps of heads, the example in which a head's score is most extreme. Blue is below zero,
# orange above. Figures have no background of their own and read on light and on dark pages;
# `figure.update_layout(template=TEMPLATES["dark"])` fits one to a known background (`interp.figures`).

# %% [markdown]
# ## 1. Negative bias: which heads look at "No", and which push there?
#
# Asked "Answer the question with Yes or No.", SmolLM2 says No to nearly everything. The Negative Attention Score (NAS; arXiv
# 2408.00137) of a head is high where it attends to the word "No" and not to "Yes".

# %%
from probes import negative_bias

n_find, n_test = (10, 10) if FAST else (32, 60)
questions = negative_bias.load_questions(limit=n_find + n_test, seed=0)
questions[0]  # shipped with the package; half of them have the answer Yes

# %%
share = n_find / len(questions)
shares = {"find": share, "test": 1 - share}
parts = negative_bias.split_questions(questions, shares)
ranking = negative_bias.rank_heads(model, parts["find"], effects="zero", n_views=0)
ranking.plot(texts={question.id: question.text for question in questions})

# %%
columns = ["label", "score", "ci_low", "ci_high", "q"]
ranking.top(5)[[*columns, "nas_swapped_order", "total_effect"]].round(3)

# %% [markdown]
# *nas_swapped_order* is the control: the same question as "No or Yes". *total_effect* is what the head adds to
# logit(No) - logit(Yes) at the answer, exactly. A head that looks at "No" need not push there. So the correction takes the two heads
# that push most, wherever they look, and turns them down: how far is chosen on the questions of the ranking.
# (How many was fixed by the author after trying 1, 2, 3, 5 and 8, so read the numbers as an illustration.)

# %%
push = ranking.by("total_effect").select(top=2)


def scaled(pairs, factor):
    factors = dict.fromkeys(pairs, factor)
    return interp.ScaledHeads(interp.describe_model(model), factors=factors)


# %%
def measured(edit, asked):  # negative bias and other measures of the first token
    with edit.apply(model):
        frame = negative_bias.measure(model, asked, generate_tokens=0).to_frame()
    return frame.query("domain == 'all' and channel == 'token'").set_index("measure")


# %%
factors, tried = (0.0,) if FAST else (0.75, 0.5, 0.25, 0.0), {}
for factor in factors:
    found = measured(scaled(push, factor), parts["find"])
    tried[factor] = float(found.loc["negative_bias", "value"])
tried

# %%
factor = min(tried, key=lambda factor: abs(tried[factor]))  # the nearest to no bias
quiet = scaled(push, factor)
quiet.summary()

# %% [markdown]
# And then tested on others, beside random heads of the same layers, turned down as far.

# %%
import random

draw = random.Random(0)
edits = {"untouched": interp.Edits(()), "the two heads": quiet}

# %%
for i in range(1 if FAST else 2):
    rest = {pair: [h for h in range(model.n_heads) if h != pair[1]] for pair in push}
    others = [(layer, draw.choice(heads)) for (layer, _), heads in rest.items()]
    edits[f"random heads {i + 1}"] = scaled(others, factor)

# %%
import pandas as pd

tested = {name: measured(edit, parts["test"]) for name, edit in edits.items()}
table = pd.concat(tested, names=["edit", "measure"]).reset_index()

# %%
from interp.figures.intervals import interval_bars

wanted = ["negative_bias", "accuracy", "auroc"]
bars = table[table["measure"].isin(wanted)]
interval_bars(bars, "edit", "value", "ci_low", "ci_high", "measure", title="Two heads turned down: other questions")

# %%
shown = table[table["measure"].isin([*wanted, "option_mass"])]
shown = shown[["measure", "edit", "value", "ci_low", "ci_high", "n"]]
shown.sort_values("measure", kind="stable").round(3)

# %%
turned = int((ranking.top(10)["nas_swapped_order"] < 0).sum())
print(f"{turned} of the first 10 heads by NAS turn their sign in the other order")
print(f"of the options (n = {ranking.n_examples} questions).")

# %% [markdown]
# An edit that moves the bias and leaves accuracy and AUROC (what the model can tell apart) where they were has moved answers, not
# knowledge; *option_mass* says how much of the probability still goes to Yes and No. Two random pairs are a glance, not a test. Deeper: [every head in both
# orders](01_negative_attention_heads.ipynb); [a test against 20 random sets, and NASA, which tunes the heads](02_nasa.ipynb).
#
# ## 2. Knowledge: does the bias follow what the model knows, or how it is asked?
#
# Each question also has an open form. Asked that way, once greedily and twice sampled, the model knows the answer, has another, or
# has none (after arXiv 2511.10881). These are questions of one domain, facts, of which it knows enough to compare.

# %%
facts = [q for q in negative_bias.load_questions(seed=1) if q.domain == "facts"]
facts = facts[: 10 if FAST else 40]
n_samples = 1 if FAST else 2
knowledge = negative_bias.sort_by_knowledge(model, facts, n_samples=n_samples)
knowledge.counts().tail(1)

# %%
knowledge.to_frame()[["open_question", "open_answer", "greedy", "label"]].head(5)

# %% [markdown]
# Then the yes/no question is put in several ways: with the fact that answers it (*relevant passage*), with "I don't know" as a third option
# (*idk*), *turned round*, so that the affirming answer is the word "No", and with letters for answers (*multiple choice*). Above 0 the
# model leans to denying, below to affirming.

# %%
forms = ["plain", "turned_round"]
forms += [] if FAST else ["relevant_passage", "idk", "multiple_choice"]
least = 2 if FAST else 5
scenarios = negative_bias.scenarios(model, facts, knowledge, which=forms, min_per_class=least)
scenarios.plot("Log odds of No by scenario and knowledge")

# %%
claims = scenarios.claims()
claims = claims[(claims.index == 0) | (claims["subset"] == "all")].dropna()
claims[["claim", "n", "log_odds_no", "log_odds_verdict"]].round(2)

# %%
of_bias = scenarios.parts()
of_bias = of_bias[of_bias["subset"] == "all"].set_index("part")
of_bias.filter(like="negative_bias").round(2)  # 1: it always denies; -1: it always affirms

# %% [markdown]
# The verdicts are of the paper's claims, on this model: the log odds do not saturate, NB does. A word part of 1 and a meaning part of 0
# is a model that says No whatever is asked. Deeper: [fifteen ways to ask](03_negative_bias_and_knowledge.ipynb).
#
# ## 3. Pictures: which heads read what?
#
# `scenes-llava-tiny` travels with the package: LLaVA's architecture, 4 layers of 8 heads, trained on drawn scenes. Scenes are drawn, so
# an edit changes one fact and nothing else, and its mask is exact.

# %%
from probes import visual_semantics as vs
from probes.scenes import render

tiny = interp.load("scenes-llava-tiny")
drawn = vs.edited_pairs("test", 1, difficulty="easy", level="attribute", kind="open")
pair = next(iter(drawn))

# %%
scenes = [(scene, [pair.question]) for scene in (pair.before, pair.after)]
before, after = vs.scene_examples(tiny, scenes, 96)
likeliest = tiny.final_logits([before.prompt, after.prompt]).argmax(-1)
said = [tiny.tokenizer.decode(int(token)).strip() for token in likeliest]

# %%
from interp.overlays import pair_figure

pictures = [render(scene, 96).image for scene in (pair.before, pair.after)]
captions = f"before: the model says {said[0]!r}", f"after: the model says {said[1]!r}"
pair_figure(*pictures, pair.region, captions, pair.question.text)

# %% [markdown]
# Every head is replaced by the mean of the others of its layer, on questions of three levels. *D* is what it adds to the probability
# of the right answer (after V-SEAM, arXiv 2509.14837). Framed: the first ten of each level.

# %%
n_scenes = 8 if FAST else 20
examples = vs.scene_examples(tiny, vs.scene_split("test", n_scenes, difficulty="easy"))
heads = vs.rank_visual_heads(tiny, examples, batch_size=16)
heads.plot("D of each head, by level")

# %%
first = {level: heads.table("signed_drop", level).head(2) for level in heads.levels}
best = pd.concat(first, names=["level", "place"]).reset_index()
best[["level", "label", "n", "score", "score_low", "score_high", "q"]].round(3)

# %% [markdown]
# Where on the picture do heads look, and what do they read there? Of all heads, the two that read most for the answer to the first
# picture against that to the second.

# %%
import numpy as np

from interp.overlays import read_head_maps

every = list(np.ndindex(tiny.n_layers, tiny.n_heads))
metric = interp.LogitDifference(pair.answer_before, pair.answer_after)

# %%
read = read_head_maps(tiny, before.prompt, every, metric).contribution.sum((1, 2))
most = [every[i] for i in np.argsort(-read)[:2]]
maps = read_head_maps(tiny, before.prompt, most, metric, pair.question.text)
maps.plot(pictures[0])

# %%
right = int(heads.is_correct.sum())
print(f"Right on {right} of {len(heads.asked)} questions about {n_scenes} pictures.")

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
from interp.sources import describe_sources

cached = {source.name for source in describe_sources() if source.cached}
is_there = "qwen2.5-coder-0.5b" in cached and not FAST
refuser = interp.load("qwen2.5-coder-0.5b") if is_there else model

# %%
from probes import harmfulness

sets = harmfulness.divide_requests(limit=10 if FAST else 40, seed=0)  # shipped
fitted = harmfulness.with_ending(sets.fit)
seen = harmfulness.observe(refuser, fitted, max_new_tokens=2 if FAST else 12)

# %%
print(refuser.name, *seen.statement(), sep="\n")

# %% [markdown]
# Directions are fitted on harmful requests that it refused and harmless ones that it accepted; where there are fewer than ten of either, on
# all harmful and all harmless ones.

# %%
refused, accepted = seen.group("harmful-refused"), seen.group("harmless-accepted")
if min(len(refused), len(accepted)) < 10:
    refused = [request for request in fitted if request.is_harmful]
    accepted = [request for request in fitted if not request.is_harmful]
directions = harmfulness.fit_directions(refuser, refused, accepted)

# %%
from probes import latent_guard

guard = latent_guard.LatentGuard(refuser, "probe").fit(sets.fit)
states = guard.read(sets.held_out)
report = directions.to_findings({"held out": directions.test(states)})

# %%
report.figures["Cosine by layer"]

# %%
report.figures["Separation by layer"]

# %% [markdown]
# A guard is the same reading, turned into a classifier: at 0 and above, it calls a request harmful.

# %%
held = sets.held_out
table = pd.DataFrame({"pair": [r.pair for r in held], "request": [r.text for r in held]})
table["harmful"] = [request.is_harmful for request in held]
table["guard"] = guard.decision_states(states).round(2)

# %%
in_pairs = table.duplicated("pair", keep=False) & (table["pair"] != "")
twins = table[in_pairs].sort_values("pair", kind="stable")
pd.options.display.max_colwidth = 100
twins.head(5).drop(columns="pair").reset_index(drop=True)

# %%
from interp.statistics import wilson_share

for harmful, rows in table.groupby("harmful"):
    share = wilson_share((rows["guard"] >= 0) == harmful)
    print(f"{'harmful' if harmful else 'harmless'}: {share:.0%} of {len(rows)} are called so")

# %%
print(len(refused), "harmful and", len(accepted), "harmless requests; mean of layers:")
pd.DataFrame([directions.agreement.mean]).round(2)

# %%
words = [sentence for sentence in report.statement if "words alone" in sentence]
print(report.statement[0], *words[:1], sep="\n")

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
import tempfile

with tempfile.TemporaryDirectory() as folder:
    quiet.save(folder)
    loaded = interp.load_edit(folder)

# %%
prompts = negative_bias.build_prompts(model, parts["test"][:4])
logits = {"untouched": model.final_logits(prompts)}
with loaded.apply(model):
    logits["hooked"] = model.final_logits(prompts)
undo = loaded.fold(model)

# %%
folded = model.final_logits(prompts)
print(f"Logits of the folded model on {len(prompts)} prompts are at most this far from")
for name, other in logits.items():
    print(f"the {name} one's: {(folded - other).abs().max():.1e}")

# %% [markdown]
# Does the edited model look elsewhere? NAS of the model before and after the edit, and beside them what heads do: the total effect of
# section 1. Any number of rankings can stand on one page, also of different models.

# %%
edited = negative_bias.rank_heads(model, parts["find"], n_views=0)
rankings = [ranking, edited, ranking.by("total_effect")]
names = ["NAS", "NAS of the edited model", "total effect"]
compared = interp.compare_rankings(rankings, names)
compared.plot("Mean score of every head")

# %%
print("\n".join(compared.statement()[:2]))

# %%
undo.fold(model)
same = model.final_logits(prompts) == logits["untouched"]
print(f"taken back: {bool(same.all())}")

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

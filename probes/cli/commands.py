"""The commands: what is typed, the function, and the heading it stands under in `interp --help`. A command is a row; of
a study named as "module:function", the command is made from the study (:mod:`probes.cli.own`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from probes.cli.attacks import fine_tuning, jailbreaks, suffixes
from probes.cli.compare import compare
from probes.cli.doctor import doctor
from probes.cli.edit import apply, cost, diff, fold, show
from probes.cli.guard import compare_guards, fit, predict
from probes.cli.harmfulness import harmfulness_directions, inversion, refusal_writers, steer
from probes.cli.locate import locate
from probes.cli.merge import merge
from probes.cli.models import models
from probes.cli.modulate import modulate
from probes.cli.negative_bias import knowledge, measure_negative_bias, nasa, negative_heads, order_swap
from probes.cli.rank import head_effect, negative_attention
from probes.cli.scenes import edit_photo, make, sheet
from probes.cli.trace import trace
from probes.cli.view import view
from probes.cli.visual import conflict_heads, visual_heads, visual_levels

START = "Start here"
STEPS = "The steps of a study"
BIAS = "Negative bias"
HARM = "Harmfulness and refusal"
IMAGES = "Images"


class Command(NamedTuple):
    """A row: what is typed after `interp`, what it does, and under which heading it is listed."""

    name: str
    function: Callable[..., Any] | str
    panel: str


COMMANDS = (
    Command("models", models, START),
    Command("doctor", doctor, START),
    Command("view", view, START),
    Command("measure negative-bias", measure_negative_bias, STEPS),
    Command("rank negative-attention", negative_attention, STEPS),
    Command("rank head-effect", head_effect, STEPS),
    Command("locate", locate, STEPS),
    Command("rank refusal-writers", refusal_writers, STEPS),
    Command("rank visual-heads", visual_heads, STEPS),
    Command("rank conflict-heads", conflict_heads, STEPS),
    Command("test negative-heads", negative_heads, STEPS),
    Command("test order-swap", order_swap, STEPS),
    Command("test visual-levels", visual_levels, STEPS),
    Command("compare", compare, STEPS),
    Command("merge", merge, STEPS),
    Command("modulate", modulate, STEPS),
    Command("edit show", show, STEPS),
    Command("edit apply", apply, STEPS),
    Command("edit cost", cost, STEPS),
    Command("edit fold", fold, STEPS),
    Command("edit diff", diff, STEPS),
    Command("align nasa", nasa, BIAS),
    Command("knowledge", knowledge, BIAS),
    Command("directions harmfulness", harmfulness_directions, HARM),
    Command("steer", steer, HARM),
    Command("inversion", inversion, HARM),
    Command("attack jailbreaks", jailbreaks, HARM),
    Command("attack suffixes", suffixes, HARM),
    Command("attack fine-tuning", fine_tuning, HARM),
    Command("guard fit", fit, HARM),
    Command("guard predict", predict, HARM),
    Command("guard compare", compare_guards, HARM),
    Command("scenes make", make, IMAGES),
    Command("scenes edit-photo", edit_photo, IMAGES),
    Command("scenes sheet", sheet, IMAGES),
    Command("trace", trace, IMAGES),
)

GROUPS = {
    "measure": "Measure a behaviour on a set of questions; write a report.",
    "rank": "Rank every attention head of a model by what it does; write a report.",
    "test": "Test a ranking of heads: are they causes, does it outlive another wording; write a report.",
    "edit": "Saved edits of a model: show, try, cost, write into the weights, compare.",
    "align": "Correct the model by tuning few heads; write a report and the edit.",
    "directions": "Fit directions of a behaviour; write a report and the directions.",
    "attack": "Make a model that refuses comply, and see what that did to its beliefs; write a report.",
    "guard": "Is a request harmful? Read from the model's own states.",
    "scenes": "Pictures edited in one fact, drawn scenes and photographs: make them, look at them.",
}
"""What the first words of a command of two words say of themselves."""

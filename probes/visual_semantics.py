"""Visual semantics, the whole study: what an image means, edited, and the heads that help and hurt answers about it.

The names that a user needs, in the order of a study (V-SEAM, arXiv 2509.14837):

>>> model = interp.load("scenes-smollm2")  # or a hub id: LLaVA, InstructBLIP, Qwen-VL, ...
>>> examples = scene_examples(model, scene_split("validation", 200, difficulty="medium"))
>>> heads = rank_visual_heads(model, examples)  # S+, S- and D of every head, with floors, intervals, p
>>> heads.save("reports/visual-heads")
>>> heads.ranking("s_plus", level="object").top(10)  # one score as a ranking of heads
>>> head_overlap(heads, "s_plus").to_frame()  # are they shared within a level, and between levels?
>>> others = scene_examples(model, scene_split("validation", 100, seed=1, difficulty="medium"))
>>> study_levels(model, heads, others).save("reports/levels")  # each claim of the paper, and what ablating shows
>>> trace_pairs(model, list(edited_pairs("test", 40))).save("reports/trace")  # which states carry what an edit changes
>>> tests = {split: scene_examples(model, scene_split(split, 100)) for split in ("test", "ood")}
>>> modulation = modulate(model, heads, examples, others, tests)  # heads turned up and down: does it help elsewhere?
>>> modulation.edit.save("reports/edit")  # read back by interp.load_edit: apply it, fold it, export it

A photograph, edited at one of the three levels, then looked at, accepted, and traced like scenes:

>>> cup = box_region("cup.jpg", (173, 19, 236, 266))
>>> red_to_green = Substitution("attribute", "red", "green")
>>> pairs = edit_photo("cup.jpg", cup, "Is the cup red?", "Yes", red_to_green, recolour_to)  # take_away, Inpainter
>>> save_pairs(pairs, "photos")
>>> write_sheet(load_picture_pairs("photos"), "photos/sheet.html")  # its "Save decisions" gives decisions.json
>>> kept, left_out = used_pairs("photos", "decisions.json")  # accepted, and nothing changed outside the mask
>>> trace_pairs(model, kept)

Factors are fitted on ``examples`` (which may have made the ranking), chosen on ``others``, and read once on ``tests``:
a picture in two of these is refused.
"""

from probes.inpainting import Inpainter, InpaintSettings, load_inpainting
from probes.modulation_candidates import Settings
from probes.modulation_results import Modulation, load_modulation
from probes.pair_files import UsedPairs, load_picture_pairs, used_pairs
from probes.pair_sheet import (
    Decision,
    PicturePair,
    accepted,
    leaks,
    load_decisions,
    picture_pair,
    sheet_image,
    without_leaks,
    write_sheet,
)
from probes.photo_edits import PhotoEdit, recolour, remove, swap_texture
from probes.photo_masks import Region, box_region, detected_region, file_region, load_detector, load_segmenter
from probes.photo_pairs import PhotoPair, edit_photo, load_pairs, recolour_to, save_pairs, take_away
from probes.photo_questions import photo_pair_examples
from probes.scene_edits import EditedPair, edit, edited_pairs
from probes.scene_files import load_scenes, save_scenes
from probes.scene_questions import Question, ask, ask_pair
from probes.scene_renderer import render
from probes.scene_splits import scene_split
from probes.scenes import Scene, SceneObject, sample_scene
from probes.visual_benchmarks import VisualQuestion, load_visual_questions
from probes.visual_head_overlap import HeadOverlap, head_overlap
from probes.visual_heads import VisualHeads, load_visual_heads, rank_visual_heads
from probes.visual_level_claims import Claim, claims_of
from probes.visual_levels import plot_effects, study_levels
from probes.visual_modulation import modulate
from probes.visual_prompts import (
    Asked,
    VisualExample,
    VisualExamples,
    benchmark_examples,
    saved_scene_examples,
    scene_examples,
    visual_examples,
)
from probes.visual_set_ablation import SetAblation, cross_level_ablation
from probes.visual_sources import VisualSource, read_source
from probes.visual_tracing import VisualTraces, load_visual_traces, trace_pairs
from probes.word_substitutions import Substitution, substitution_for

__all__ = [
    "Asked",
    "Claim",
    "Decision",
    "EditedPair",
    "HeadOverlap",
    "InpaintSettings",
    "Inpainter",
    "Modulation",
    "PhotoEdit",
    "PhotoPair",
    "PicturePair",
    "Question",
    "Region",
    "Scene",
    "SceneObject",
    "SetAblation",
    "Settings",
    "Substitution",
    "UsedPairs",
    "VisualExample",
    "VisualExamples",
    "VisualHeads",
    "VisualQuestion",
    "VisualSource",
    "VisualTraces",
    "accepted",
    "ask",
    "ask_pair",
    "benchmark_examples",
    "box_region",
    "claims_of",
    "cross_level_ablation",
    "detected_region",
    "edit",
    "edit_photo",
    "edited_pairs",
    "file_region",
    "head_overlap",
    "leaks",
    "load_decisions",
    "load_detector",
    "load_inpainting",
    "load_modulation",
    "load_pairs",
    "load_picture_pairs",
    "load_scenes",
    "load_segmenter",
    "load_visual_heads",
    "load_visual_questions",
    "load_visual_traces",
    "modulate",
    "photo_pair_examples",
    "picture_pair",
    "plot_effects",
    "rank_visual_heads",
    "read_source",
    "recolour",
    "recolour_to",
    "remove",
    "render",
    "sample_scene",
    "save_pairs",
    "save_scenes",
    "saved_scene_examples",
    "scene_examples",
    "scene_split",
    "sheet_image",
    "study_levels",
    "substitution_for",
    "swap_texture",
    "take_away",
    "trace_pairs",
    "used_pairs",
    "visual_examples",
    "without_leaks",
    "write_sheet",
]

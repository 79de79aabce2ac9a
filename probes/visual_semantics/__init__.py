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

from typing import TYPE_CHECKING

from interp.door.faces import hands_on

if TYPE_CHECKING:
    from probes.pairs import (
        Inpainter as Inpainter,
        Substitution as Substitution,
        box_region as box_region,
        edit_photo as edit_photo,
        load_picture_pairs as load_picture_pairs,
        recolour_to as recolour_to,
        save_pairs as save_pairs,
        take_away as take_away,
        used_pairs as used_pairs,
        write_sheet as write_sheet,
    )
    from probes.scenes import edited_pairs as edited_pairs, scene_split as scene_split
    from probes.visual_semantics.heads import (
        VisualHeads as VisualHeads,
        cross_level_ablation as cross_level_ablation,
        head_overlap as head_overlap,
        rank_visual_heads as rank_visual_heads,
        study_levels as study_levels,
    )
    from probes.visual_semantics.modulation import modulate as modulate
    from probes.visual_semantics.questions import (
        VisualExamples as VisualExamples,
        benchmark_examples as benchmark_examples,
        load_visual_questions as load_visual_questions,
        scene_examples as scene_examples,
        visual_examples as visual_examples,
    )
    from probes.visual_semantics.tracing import VisualTraces as VisualTraces, trace_pairs as trace_pairs

__getattr__, __dir__, __all__ = hands_on(__name__, __file__)

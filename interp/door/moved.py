"""Where the modules of the flat layout went, and the names that a face no longer hands on: an old path gets what it
named at its new place, and a warning.

Scripts and notebooks from before the move to rooms go on working. To be dropped with the first release.
"""

from __future__ import annotations

import sys
import warnings
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_ROOMS = """
interp.door: plain_values callers
interp.records: provenance writing folder_lock parts csv_files work artefact
interp.architecture: components adapters active_edits bridge_twin weight_hash turns compiled hooks foreign_parts
    attention
interp.sources: conversions gguf_config gguf_tokens gguf testbeds model_names installation
interp.statistics: rank_agreement
interp.figures: figure_style:style interval_figures:intervals level_figures:levels tracing_figures:traces views
interp.vision: images vision_grids:grids vision_processors:processors vision_encoder:encoder vision_adapters:adapters
    picture
interp.prompts: prompt batch reader fits chat_templates answer_tokens vision_inputs:pictures
interp.passes: handle pass_lengths:lengths plain_passes:plain looks_ahead identity independence shared_prefix
    vision_features:inputs
interp.models: model answer_mass acting loadable loading adapter_repairs
interp.machine: speed doctor
interp.reports: mass page report_folder:folder findings result
interp.rankings: ranking ranking_controls:controls ranking_report:report comparison
    comparison_sentences:sentences comparison_figures:figures depth_profiles side_by_side
interp.reading: capture residual attribution generation perplexity metrics
interp.scans: fanout state_patches tracing trace_regions:regions trace_results:traces head_writing readings
interp.edits: weight_identity:identity weight_writing:weights fold_check edit_export:export edit_family:family
    replaced_weights:replaced head_weights:head_rows head_scales directions steering steered_positions steering_fold
    composed_edits:composed edit_diff:diff control_vectors
interp.fitting: tuning modulation factor_search factor_gradient
interp.overlays: picture_patches:patches picture_overlays:overlays
probes.rows: cells json_rows formats item_sets placeholders
probes.studies: runs study_files left_out
probes.questions: question_formats:formats question_forms:forms held_out instructions open_answers texts
probes.heads: head_effects:effects head_sets:sets set_statistics
probes.requests: request_formats:formats request_prompts:prompts request_states:states request_sets:sets refusal
    behaviour
probes.scenes: scene_renderer:renderer scene_programs:programs scene_questions:questions scene_splits:splits
    scene_edits:edits
probes.pairs: pair_sheet:sheet pair_files:files scene_files photo_masks:masks photo_edits photo_pairs inpainting
    word_substitutions:substitutions
probes.modulation: answer_readings:readings answer_offsets:offsets modulation_candidates:candidates
    modulation_effects:effects modulation_report:report modulation_results:result modulation_work:work
probes.negative_bias: negative_attention:nas answers bias_report:measures causality causal_verdict:causal_report
    alignment:nasa alignment_methods:methods alignment_fits:fits knowledge scenario_forms scenario_statistics
    scenario_results:scenario_result scenarios:scenario_study
probes.harmfulness.directions: direction_controls:controls harmful_directions:directions direction_agreement:agreement
    harmful_report:report refusal_writers:writers refusal_openings:openings
probes.harmfulness.steering: steering_arms:arms steering_screen:screen refusal_steering:sweep steering_study:result
    steering_report:report reply_inversion:inversion inversion_report
probes.harmfulness.attacks: jailbreak_texts:texts jailbreaks jailbreak_results:jailbreak_result
    gradient_suffixes:suffixes finetuning_attack:finetuning finetuning_results:finetuning_result
    belief_statistics:statistics
probes.latent_guard: guard_classifier:classifier guard_rules:rules guard_verdict:report guard_report:result
    guard_readouts:readouts guard_inputs:inputs
probes.visual_semantics.questions: visual_prompts:prompts visual_sources:sources visual_benchmarks:benchmarks
    visual_benchmark_formats:formats photo_questions
probes.visual_semantics.heads: visual_scan:passes visual_heads:heads visual_head_results:result
    visual_head_report:report visual_head_tables:scores visual_head_overlap:overlap visual_set_ablation:ablation
    visual_level_claims:claims visual_levels:levels
probes.visual_semantics.tracing: question_roles:roles pair_prompts:prompts traced_heads:heads traced_readers:readers
    tracing_tables:tables tracing_sentences:sentences visual_tracing:tracing visual_tracing_results:result
probes.visual_semantics: visual_modulation:modulation
probes.cli: cli_study:study cli_negative_bias:negative_bias cli_requests:requests cli_harmfulness:harmfulness
    cli_guard:guard cli_compare:compare cli_doctor:doctor cli_edit:edit cli_scenes:scenes cli_visual:visual
    cli_trace:trace cli_modulate:modulate cli_wording:wording modulation_sources
"""

_NAMES = """
interp: EachHead@interp.interventions Attribution@interp.reading ScanResult@interp.scans.scan AnswerMass@interp.reports
    TunedHeads@interp.edits Steering@interp.edits load_control_vector@interp.edits.control_vectors
    save_control_vector@interp.edits.control_vectors clamp_direction@interp.edits.steering
probes.negative_bias: score_prompts@.nas
probes.harmfulness: Recipe@.attacks learning_curve@.directions load_inversion_questions@.steering
    Dimensions@.steering Inversion@.steering InversionQuestion@.steering SteeringStudy@.steering
    FineTuningStudy@.attacks Jailbreak@.attacks JailbreakStudy@.attacks HeldOut@.directions GROUPS@probes.requests
    RequestSets@probes.requests RequestStates@probes.requests judge_by_phrases@probes.requests
    require_disjoint@probes.requests sample_requests@probes.requests separation_by_position@probes.requests
    surface_baselines@probes.requests
probes.visual_semantics: HeadOverlap@.heads LevelClaim@.heads LevelStudy@.heads SetAblation@.heads claims_of@.heads
    plot_effects@.heads Asked@.questions VisualExample@.questions VisualQuestion@.questions VisualSource@.questions
    photo_pair_examples@.questions read_source@.questions saved_scene_examples@.questions Modulation@probes.modulation
    ModulationSettings@probes.modulation EditedPair@probes.scenes Scene@probes.scenes SceneObject@probes.scenes
    SceneQuestion@probes.scenes.questions ask@probes.scenes ask_pair@probes.scenes edit@probes.scenes
    render@probes.scenes sample_scene@probes.scenes Decision@probes.pairs InpaintSettings@probes.pairs
    PhotoEdit@probes.pairs
    PhotoPair@probes.pairs PicturePair@probes.pairs Region@probes.pairs UsedPairs@probes.pairs accepted@probes.pairs
    detected_region@probes.pairs file_region@probes.pairs leaks@probes.pairs load_decisions@probes.pairs
    load_detector@probes.pairs load_inpainting@probes.pairs load_pairs@probes.pairs load_scenes@probes.pairs
    load_segmenter@probes.pairs picture_pair@probes.pairs recolour@probes.pairs remove@probes.pairs
    save_scenes@probes.pairs sheet_image@probes.pairs substitution_for@probes.pairs swap_texture@probes.pairs
    without_leaks@probes.pairs
"""


def _places() -> dict[str, str]:
    found, room = {}, ""
    for word in _ROOMS.split():
        if word.endswith(":"):
            room = word[:-1]
        else:
            old, _, new = word.partition(":")
            found[f"{room.partition('.')[0]}.{old}"] = f"{room}.{new or old}"
    return found


def _names() -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    face = ""
    for word in _NAMES.split():
        if word.endswith(":"):
            face = word[:-1]
        else:
            name, _, room = word.partition("@")
            found.setdefault(face, {})[name] = face + room if room.startswith(".") else room
    return found


PLACES = _places()
NAMES = _names()
"""face -> name -> the room that hands it on now."""


def moved_name(face: str, name: str) -> Any:
    """What a face handed on under this name before it was narrowed, with a warning.

    Raises:
        AttributeError: it never did.
    """
    if (room := NAMES.get(face, {}).get(name)) is None:
        raise AttributeError(f"module {face!r} has no attribute {name!r}")
    warnings.warn(f"{face}.{name} is now {room}.{name}; import it from there.", DeprecationWarning, stacklevel=3)
    return getattr(import_module(room), name)


class _Moved(MetaPathFinder, Loader):
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name in PLACES else None

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        warnings.warn(f"{name} is now {PLACES[name]}; import it from there.", DeprecationWarning, stacklevel=2)
        sys.modules[name] = import_module(PLACES[name])


def follow_moved() -> None:
    """Let imports by old paths find their modules, after all other ways have failed."""
    if not any(isinstance(finder, _Moved) for finder in sys.meta_path):
        sys.meta_path.append(_Moved())

"""The packages keep their shape: imports go one way, probes hold no hooks, nothing unpickles or evaluates."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A module imports only from modules to its left: shared ground, then load -> prompts -> capture -> scan -> ranking ->
# report and storage. A new module gets its place here.
INTERP = [
    "plain_values",
    "door",
    "callers",
    "provenance",
    "writing",
    "folder_lock",
    "parts",
    "records",
    "csv_files",
    "work",
    "adapters",
    "active_edits",
    "bridge_twin",
    "weight_hash",
    "components",
    "turns",
    "compiled",
    "hooks",
    "foreign_parts",
    "attention",
    "conversions",
    "gguf_config",
    "gguf_tokens",
    "gguf",
    "testbeds",
    "model_names",
    "sources",
    "installation",
    "speed",
    "images",
    "chat_templates",
    "answer_tokens",
    "vision_grids",
    "vision_processors",
    "vision_inputs",
    "vision_encoder",
    "pass_lengths",
    "plain_passes",
    "prompts",
    "looks_ahead",
    "identity",
    "vision_features",
    "independence",
    "shared_prefix",
    "model",
    "acting",
    "answer_mass",
    "vision_adapters",
    "adapter_repairs",
    "loadable",
    "loading",
    "doctor",
    "metrics",
    "edits",
    "interventions",
    "fanout",
    "state_patches",
    "capture",
    "residual",
    "generation",
    "attribution",
    "scan",
    "readings",
    "artefact",
    "weight_identity",
    "weight_writing",
    "fold_check",
    "edit_export",
    "edit_family",
    "replaced_weights",
    "head_weights",
    "head_scales",
    "tuning",
    "modulation",
    "factor_search",
    "factor_gradient",
    "directions",
    "head_writing",
    "steered_positions",
    "steering_fold",
    "steering",
    "composed_edits",
    "edit_diff",
    "control_vectors",
    "statistics",
    "rank_agreement",
    "perplexity",
    "views",
    "figure_style",
    "interval_figures",
    "figures",
    "tracing_figures",
    "trace_regions",
    "trace_results",
    "tracing",
    "picture_patches",
    "level_figures",
    "picture_overlays",
    "ranking",
    "ranking_frames",
    "depth_profiles",
    "comparison",
    "comparison_figures",
    "report",
    "storage",
    "findings",
    "comparison_sentences",
    "side_by_side",
]
PROBES = [
    "cells",
    "json_rows",
    "rows",
    "formats",
    "item_sets",
    "placeholders",
    "question_formats",
    "questions",
    "held_out",
    "instructions",
    "runs",
    "head_effects",
    "negative_attention",
    "texts",
    "answers",
    "bias_report",
    "study_files",
    "open_answers",
    "question_forms",
    "knowledge",
    "scenario_forms",
    "scenario_statistics",
    "scenario_results",
    "scenarios",
    "head_sets",
    "causal_verdict",
    "causality",
    "alignment_methods",
    "alignment_fits",
    "alignment",
    "negative_bias",
    "left_out",
    "answer_readings",
    "answer_offsets",
    "modulation_candidates",
    "modulation_effects",
    "modulation_report",
    "modulation_results",
    "modulation_work",
    "modulation",
    "refusal",
    "request_formats",
    "requests",
    "request_prompts",
    "behaviour",
    "refusal_openings",
    "request_states",
    "direction_agreement",
    "harmful_report",
    "harmful_directions",
    "request_sets",
    "steering_report",
    "inversion_report",
    "steering_arms",
    "steering_screen",
    "steering_study",
    "refusal_steering",
    "reply_inversion",
    "guard_inputs",
    "guard_readouts",
    "guard_rules",
    "guard_verdict",
    "guard_report",
    "guard_classifier",
    "latent_guard",
    "belief_statistics",
    "jailbreak_texts",
    "gradient_suffixes",
    "jailbreak_results",
    "jailbreaks",
    "finetuning_results",
    "finetuning_attack",
    "refusal_writers",
    "harmfulness",
    "scenes",
    "scene_renderer",
    "scene_programs",
    "scene_questions",
    "scene_splits",
    "scene_edits",
    "pair_sheet",
    "scene_files",
    "photo_masks",
    "photo_edits",
    "word_substitutions",
    "photo_pairs",
    "pair_files",
    "inpainting",
    "visual_benchmark_formats",
    "visual_benchmarks",
    "visual_prompts",
    "photo_questions",
    "visual_sources",
    "visual_scan",
    "visual_head_tables",
    "visual_head_report",
    "visual_heads",
    "visual_head_overlap",
    "visual_set_ablation",
    "visual_level_claims",
    "visual_levels",
    "visual_modulation",
    "modulation_sources",
    "question_roles",
    "pair_prompts",
    "traced_heads",
    "traced_readers",
    "tracing_tables",
    "tracing_sentences",
    "visual_tracing_results",
    "visual_tracing",
    "visual_semantics",
    "cli_study",
    "cli_compare",
    "cli_doctor",
    "cli_negative_bias",
    "cli_requests",
    "cli_guard",
    "cli_harmfulness",
    "cli_scenes",
    "cli_edit",
    "cli_visual",
    "cli_modulate",
    "cli_trace",
    "cli_wording",
    "cli",
]

# Methods that are doors to a module further right (`ranking.save()`), imported when they are called.
DOORS = {("ranking", "storage"), ("ranking", "ranking_frames")}


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).glob("**/*.py"))


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def is_for_types_only(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def imported(path: Path) -> set[str]:
    """Dotted names that a file imports, also inside functions, but not for type checkers alone."""
    names: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            if not is_for_types_only(child):
                visit(child)

    visit(tree(path))
    return names


def modules(path: Path, package: str, known: list[str]) -> set[str]:
    """Modules of the package that a file imports."""
    parts = [name.split(".") for name in imported(path)]
    return {p[1] for p in parts if p[0] == package and len(p) > 1 and p[1] in known}


@pytest.mark.parametrize(("package", "order"), [("interp", INTERP), ("probes", PROBES)])
def test_every_module_has_its_place(package, order):
    found = {p.stem for p in files(package) if p.parent.name == package} - {"__init__", "__main__"}
    assert found == set(order), "give a new module its place in the order of tests/test_layers.py"


@pytest.mark.parametrize(("package", "order"), [("interp", INTERP), ("probes", PROBES)])
def test_imports_go_one_way(package, order):
    for path in files(package):
        if path.stem in ("__init__", "__main__"):
            continue
        allowed = set(order[: order.index(path.stem)]) | {there for here, there in DOORS if here == path.stem}
        wrong = modules(path, package, order) - allowed
        assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}, which stand to its right"


def test_interp_knows_no_probe():
    for path in files("interp"):
        assert not {n for n in imported(path) if n.split(".")[0] == "probes"}, path


def test_the_packages_do_not_import_tests_or_notebooks():
    for path in [*files("interp"), *files("probes")]:
        assert not {n for n in imported(path) if n.split(".")[0] in ("tests", "notebooks", "tiny")}, path


def test_probes_hold_no_hook():
    """The instrument is interp's: a probe asks for captures and scans, it does not reach into modules."""
    for path in files("probes"):
        for node in ast.walk(tree(path)):
            name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
            assert "hook" not in name, f"{path.relative_to(ROOT)}:{node.lineno} uses {name}"


def test_everything_is_attached_and_run_by_one_mechanism():
    """Only `interp.hooks` puts hooks on modules or replaces a forward, since it counts whether they are called; and
    passes go through its `run_pass`, in the model's turn."""
    for path in [*files("interp"), *files("probes")]:
        if path.stem == "hooks":
            continue
        for node in ast.walk(tree(path)):
            where = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', '')}"
            if isinstance(node, ast.Attribute):
                of_a_bridge = path.stem == "bridge_twin" and node.attr == "register_forward_pre_hook"  # for good, too
                assert of_a_bridge or not node.attr.startswith("register_forward"), where
                assert "full_backward" not in node.attr, where
                is_set = isinstance(node.ctx, ast.Store) and node.attr == "forward"
                assert not is_set or path.stem == "vision_adapters", where  # of a bridge, for good
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called != "base" and not called.endswith((".hf", ".hf.base_model")), f"{where}: use run_pass"


def test_no_result_begins_as_memory_that_nobody_wrote():
    for path in [*files("interp"), *files("probes")]:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                where = f"{path.relative_to(ROOT)}:{node.lineno}: fill it with NaN, or build it from what came"
                assert node.func.attr not in ("empty", "empty_like", "new_empty", "empty_strided"), where


def test_nothing_unpickles_or_evaluates():
    for path in [*files("interp"), *files("probes")]:
        roots = {n.split(".")[0] for n in imported(path)}
        assert not roots & {"pickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}, path
        for node in ast.walk(tree(path)):
            where = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', '')}"
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in ("eval", "exec", "torch.load", "pd.read_pickle"), where
            if isinstance(node, ast.keyword):
                assert node.arg != "allow_pickle", where


def test_files_are_short():
    for path in [*files("interp"), *files("probes")]:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 450, f"{path.relative_to(ROOT)}: split it"

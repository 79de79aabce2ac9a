"""The packages keep their shape: imports go one way, probes hold no hooks, nothing unpickles or evaluates."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# The rooms, lowest first: a room imports only from rooms on lines above its own. A new room gets its place here.
FLOORS = [
    ["interp.door"],
    ["interp.records", "interp.statistics"],
    ["interp.figures"],
    ["interp.architecture", "interp.sources", "interp.reports"],
    ["interp.rankings", "interp.vision", "interp.engines"],
    ["interp.prompts"],
    ["interp.passes", "interp.pairs"],
    ["interp.models"],
    ["interp.interventions", "interp.machine"],
    ["interp.reading", "interp.edits"],
    ["interp.scans", "interp.overlays"],
    ["interp.fitting"],
    ["interp.locating", "interp.explorer"],
    ["interp.circuits"],
    ["interp"],
    ["probes"],
    ["probes.rows", "probes.scenes", "probes.known_answers.tasks"],
    ["probes.pairs", "probes.questions", "probes.scenes.training"],
    ["probes.known_answers.programs", "probes.known_answers.twins"],
    ["probes.known_answers"],
    ["probes.studies"],
    ["probes.prompt_pairs"],
    ["probes.heads", "probes.requests", "probes.visual_semantics.questions"],
    ["probes.harmfulness.directions", "probes.latent_guard", "probes.modulation", "probes.negative_bias"],
    ["probes.visual_semantics.heads", "probes.visual_semantics.tracing"],
    [
        "probes.harmfulness.steering",
        "probes.harmfulness.attacks",
        "probes.visual_semantics.routes",
        "probes.visual_semantics.conflict",
    ],
    ["probes.harmfulness", "probes.visual_semantics"],
    ["probes.cli"],
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).glob("**/*.py"))


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def name_of(path: Path) -> str:
    """The dotted name of a file's module, or of a folder's face."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for package in ("interp", "probes") for path in files(package)}


def room_of(name: str) -> str:
    return name if MODULES[name].stem == "__init__" else name.rpartition(".")[0]


def imported(path: Path) -> set[str]:
    """Dotted names that a file imports, also inside functions and for type checkers alone."""
    names: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def used(name: str) -> set[str]:
    """Modules of the two packages that a module imports."""
    names = imported(MODULES[name])
    return {n if n in MODULES else n.rpartition(".")[0] for n in names} & set(MODULES) - {name}


def test_every_module_is_in_a_room():
    flat = {name for name in MODULES if name.count(".") == 1 and MODULES[name].stem not in ("__init__", "__main__")}
    assert not flat, "put it into a room"
    rooms = {room_of(name) for name in MODULES if MODULES[name].stem != "__main__"}
    assert rooms == set(FLOOR), "give a new room its floor in tests/test_layers.py"


@pytest.mark.parametrize("room", list(FLOOR))
def test_every_room_has_a_face_that_defines_nothing(room):
    face = ROOT / room.replace(".", "/") / "__init__.py"
    body = tree(face).body
    assert ast.get_docstring(ast.Module(body, []))
    kinds = (ast.Expr, ast.Import, ast.ImportFrom, ast.If)
    defined = [n for n in body if not isinstance(n, kinds) and "hands_on(" not in ast.unparse(n)]
    assert not defined or room == "interp", f"{room}/__init__.py defines something"
    names = {a.asname for n in ast.walk(ast.Module(body, [])) if isinstance(n, ast.ImportFrom) for a in n.names}
    modules = {p.stem for p in face.parent.iterdir()} - {"capture"}  # a module that is handed on as one
    assert not names & modules, f"a module of {room} has the name of what its face hands on: {names & modules}"


@pytest.mark.parametrize("name", [n for n, path in MODULES.items() if path.stem != "__main__"])
def test_rooms_import_one_way(name):
    wrong = {n for n in used(name) if room_of(n) != room_of(name) and FLOOR[room_of(n)] >= FLOOR[room_of(name)]}
    assert not wrong, f"{name} imports {sorted(wrong)}, which stand on its floor or above"


def test_no_import_goes_round():
    """Circles of files, imports for type checkers included."""
    open_, closed = [], set()

    def visit(name: str) -> None:
        assert name not in open_, f"a circle: {' -> '.join([*open_[open_.index(name) :], name])}"
        if name not in closed:
            open_.append(name)
            for other in sorted(used(name) - faces):
                visit(other)
            closed.add(open_.pop())

    faces = {name for name, path in MODULES.items() if path.stem == "__init__"}  # they lead back into their own rooms
    for name in sorted(set(MODULES) - faces):
        visit(name)


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
    """Only `interp.architecture.hooks` puts hooks on modules or replaces a forward, since it counts whether they are
    called; and passes go through its `run_pass`, in the model's turn."""
    for path in [*files("interp"), *files("probes")]:
        if name_of(path) == "interp.architecture.hooks":
            continue
        for node in ast.walk(tree(path)):
            where = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', '')}"
            if isinstance(node, ast.Attribute):
                of_a_bridge = path.stem == "bridge_twin" and node.attr == "register_forward_pre_hook"  # for good, too
                assert of_a_bridge or not node.attr.startswith("register_forward"), where
                assert "full_backward" not in node.attr, where
                is_set = isinstance(node.ctx, ast.Store) and node.attr == "forward"
                assert not is_set or name_of(path) == "interp.vision.adapters", where  # of a bridge, for good
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

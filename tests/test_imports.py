"""What is imported when: `import interp` pays for nothing, and what was saved is read where torch is not installed."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
import pytest

import interp
from interp.rankings import HeadRanking

ROOT = Path(__file__).parents[1]
NEED_TORCH = {  # these hold tensors: directions and tuned rows, to act in a model; `load_findings` reads them without
    "probes.harmfulness.directions.directions",
    "probes.harmfulness.directions.report",
    "probes.negative_bias.alignment_report",
    "probes.negative_bias.alignment_result",
}
WITHOUT_TORCH = """
import sys

class NotThere:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers", "transformer_lens"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NotThere())
"""


def run(code: str, *arguments: str) -> str:
    """What a new Python prints."""
    ran = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def modules_of_results() -> dict[str, list[str]]:
    """Modules that define a class of results, each with the modules of their reports."""
    found = {}
    for path in sorted(p for package in ("interp", "probes") for p in (ROOT / package).rglob("*.py")):
        classes = [n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.ClassDef)]
        results = [c for c in classes if any(isinstance(b, ast.Name) and b.id == "Result" for b in c.bases)]
        if results:
            reports = [ast.literal_eval(k.value) for c in results for k in c.keywords if k.arg == "report"]
            found[".".join(path.relative_to(ROOT).with_suffix("").parts)] = reports
    return found


@pytest.mark.parametrize("package", ["interp", "probes"])
def test_importing_a_package_costs_nothing(package):
    heavy = {"torch", "transformers", "transformer_lens", "plotly", "scipy", "sklearn", "pandas", "peft", "PIL"}
    loaded = set(run(f"import sys, {package}; print(*sys.modules)").split())
    assert not heavy & loaded


def test_what_was_saved_is_read_without_torch(tmp_path):
    about = {"title": "Beans", "run_id": "1"}
    tables = {"Beans": pd.DataFrame({"colour": ["red"], "n": [3]})}
    interp.Findings("Beans", ["There are beans."], tables, {"Beans": go.Figure()}, about).save(tmp_path / "findings")
    heads = pd.DataFrame([(layer, head, layer + head) for layer in (0, 1) for head in (0, 1)])
    ranking = HeadRanking.from_frame(heads.set_axis(["layer", "head", "score"], axis=1), provenance=about)
    ranking.save(tmp_path / "ranking")
    code = f"""{WITHOUT_TORCH}
import interp
print(*interp.load_result(sys.argv[1]).statement)
print(*interp.load_findings(sys.argv[1]).statement)
print(interp.load_ranking(sys.argv[2]).top(1)['label'].item())
"""
    printed = run(code, str(tmp_path / "findings"), str(tmp_path / "ranking")).splitlines()
    assert printed == ["There are beans.", "There are beans.", "L1H1"]


def test_other_classes_of_results_and_their_reports_are_there_without_torch():
    both = {name for module, reports in modules_of_results().items() for name in (module, *reports)}
    assert both >= NEED_TORCH
    others = sorted(both - NEED_TORCH)
    assert len(others) > 30
    run(f"{WITHOUT_TORCH}\nfrom importlib import import_module\nfor module in {others}: import_module(module)")


def test_a_result_that_needs_torch_says_so():
    code = f"""{WITHOUT_TORCH}
from interp.reports.saved import class_of
try:
    class_of("probes.requests.behaviour:Behaviour")
except ValueError as error:
    print(error)
"""
    assert "needs torch, and that is not installed. interp.load_findings " in run(code)

"""What is imported when: `import interp` pays for nothing, and what was saved is read where torch is not installed."""

from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import torch

import interp
from interp.edits import Direction, HeadRows, TunedHeads
from interp.rankings import HeadRanking
from probes.harmfulness.directions.result import POSITIONS, HarmfulDirections, Means
from probes.negative_bias.alignment_result import Alignment
from probes.negative_bias.corrections import Method, State
from probes.questions import Instruction, Question
from probes.requests import Request, RequestStates

ROOT = Path(__file__).parents[1]
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


def test_every_class_of_results_and_its_report_is_there_without_torch():
    both = sorted({name for module, reports in modules_of_results().items() for name in (module, *reports)})
    assert len(both) > 30
    run(f"{WITHOUT_TORCH}\nfrom importlib import import_module\nfor module in {both}: import_module(module)")


def directions() -> HarmfulDirections:
    rng, n = np.random.default_rng(0), 24
    positive = np.arange(n) < n // 2
    t_inst, t_post = (torch.from_numpy(rng.normal(size=(n, 3, 8)) + positive[:, None, None]).float() for _ in range(2))
    requests = tuple(
        Request(f"r{i}", f"Water the beans {i}.", "harmful" if i < n // 2 else "harmless") for i in range(n)
    )
    states = RequestStates(requests, t_inst, t_post, np.ones(n, dtype=bool))
    means = Means(*(x[m].mean(0) for x in (t_inst, t_post) for m in (positive, ~positive)))
    made = [Direction(above - below, {"name": "m"}) for above, below in map(means.of, POSITIONS)]
    provenance = {"title": "Two", "run_id": "1", "data": {"n": n, "n_positive": n // 2}}
    return HarmfulDirections(*made, means, states, positive, provenance)


def alignment() -> Alignment:
    state = State(gap=0.1, bias=0.1, accuracy=0.7, auroc=0.8, loss=0.5, says_yes=0.5)
    edit = TunedHeads({"name": "m"}, {}, (HeadRows(0, 1, "query", torch.ones(4, 8)),))
    history = pd.DataFrame([{"method": "NASA", "what": "L0H1", "step": 1, "event": "look", **asdict(state)}])
    return Alignment(
        Instruction(),
        (Method("NASA", edit, note="L0H1", validation=state), Method("offset", offset=0.5, validation=state)),
        history,
        ((0, 1),),
        asdict(state),
        (Question("q1", "Is water wet?", "Yes"),),
        ("q2",),
        {"title": "Aligned", "run_id": "2"},
    )


@pytest.mark.parametrize(
    "make, field", [(directions, "result.harmfulness.vectors"), (alignment, "result.edit.rows[0].weight")]
)
def test_what_holds_tensors_is_read_without_torch_until_these_are_asked_for(tmp_path, make, field):
    saved = make()
    saved.save(tmp_path)
    code = f"""{WITHOUT_TORCH}
import interp
result = interp.load_result(sys.argv[1])
print(*result.statement(), sep="\\n")
print(repr(result))
print(result._repr_html_().count("<tr"), len(result.table()) > 100, result.methods_paragraph()[:4])
try:
    {field}
except ValueError as error:
    print(error)
"""
    *statement, shown, html, needs = run(code, str(tmp_path)).splitlines()
    assert statement == saved.statement() and shown == repr(saved)
    assert html.split()[0] == str(saved._repr_html_().count("<tr")) and html.split()[1] == "True"
    assert "needs torch, and that is not installed" in needs
    there = run(
        code.replace(WITHOUT_TORCH, "import sys").replace("try:", "print('torch' in sys.modules)\ntry:"), str(tmp_path)
    )
    assert there.splitlines()[-1] == "False"  # imported only where a tensor is asked for


def test_what_is_built_later_is_what_was_saved(tmp_path):
    saved = directions()
    saved.save(tmp_path)
    found = interp.load_result(tmp_path)
    assert torch.equal(found.refusal.vectors, saved.refusal.vectors) and found.refusal is found.refusal
    assert torch.equal(found.states.t_inst, saved.states.t_inst) and found.states.requests[0].is_withheld
    pd.testing.assert_frame_equal(found.cosine(), saved.cosine())
    assert found.to_findings().statement == saved.statement() and list(found.to_findings().figures)
    assert replace(found, provenance={**found.provenance, "title": "Other"}).to_findings().title == "Other"


def test_with_replies_the_page_is_made_again(tmp_path):
    """What was saved may show texts, which are withheld unless asked for."""
    directions().save(tmp_path, include_replies=True)
    found = interp.load_result(tmp_path)
    assert "_saved" not in vars(found) and found.statement() == directions().statement()


def test_a_result_that_needs_torch_says_so():
    code = f"""{WITHOUT_TORCH}
from interp.reports.saved import class_of
try:
    class_of("probes.requests.behaviour:Behaviour")
except ValueError as error:
    print(error)
"""
    assert "needs torch, and that is not installed. interp.load_findings " in run(code)

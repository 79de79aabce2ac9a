"""A circuit as a graph: drawn, and written and read as MIB's ``importances.json``."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from interp.circuits.drawn_sets import Head
from interp.circuits.paths import PARTS, Paths
from interp.door import public
from interp.figures import GREY, NEGATIVE, POSITIVE, finish, head_label

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from interp.models import Model

_NODE = re.compile(r"a(\d+)\.h(\d+)$|m(\d+)$|input$|logits$")
_EDGE = re.compile(r"(?P<sender>[^-<>]+)->(?P<receiver>[^-<>]+?)(<(?P<part>[qkv])>)?$")


@public
@dataclass(frozen=True, eq=False)
class CircuitGraph:
    """Scores of edges between heads, MLPs, the embedding ("input") and the logits.

    ``edges``: (sender, receiver, part) -> score, in the names of MIB: "a3.h5", "m2", "input", "logits"; part "q", "k",
    "v" where the receiver is a head, else "". ``in_graph``: the edges of the circuit. ``n_layers``, ``n_heads``,
    ``d_model``: of the model, whose name is ``model``.
    """

    edges: Mapping[tuple[str, str, str], float]
    in_graph: frozenset[tuple[str, str, str]]
    n_layers: int
    n_heads: int
    model: str = ""
    d_model: int = 0

    @classmethod
    def from_paths(cls, paths: Paths, share: float = 0.05) -> CircuitGraph:
        """The mean effects of paths; those of at least a ``share`` of the largest size are in the circuit."""
        if not 0 <= share <= 1:
            raise ValueError(f"share={share}; expected 0 to 1.")
        edges: dict[tuple[str, str, str], float] = {}
        for s, sender in enumerate(paths.senders):
            for r, receiver in enumerate(paths.receivers):
                for p, part in enumerate(PARTS):
                    if sender[0] < receiver[0]:
                        edges[_name(sender), _name(receiver), part] = float(paths.effects[:, s, r, p].mean())
            edges[_name(sender), "logits", ""] = float(paths.to_logits[:, s].mean())
        least = share * max(abs(score) for score in edges.values())
        chosen = frozenset(edge for edge, score in edges.items() if abs(score) >= least and score != 0)
        return cls(edges, chosen, *paths.shape, paths.model)

    @property
    def heads(self) -> tuple[Head, ...]:
        """The heads on edges of the circuit, by layer."""
        names = {end for sender, receiver, _ in self.in_graph for end in (sender, receiver)}
        return tuple(sorted(_head(name) for name in names if name.startswith("a")))

    def save(self, path: str | Path) -> Path:
        """Write MIB's ``importances.json``: cfg, nodes and edges with their scores. Raises ``FileExistsError``."""
        path = Path(path)
        if path.exists():
            raise FileExistsError(f"{path} exists; name another file, or remove it.")
        within = {end for sender, receiver, _ in self.in_graph for end in (sender, receiver)}
        names = sorted({end for sender, receiver, _ in self.edges for end in (sender, receiver)} | {"input", "logits"})
        record = {
            "cfg": {
                "n_layers": self.n_layers,
                "n_heads": self.n_heads,
                "d_model": self.d_model,
                "parallel_attn_mlp": False,
                "model_name": self.model,
            },
            "nodes": {name: {"in_graph": name in within or name in ("input", "logits")} for name in names},
            "edges": {
                f"{sender}->{receiver}{f'<{part}>' if part else ''}": {
                    "score": score,
                    "in_graph": (sender, receiver, part) in self.in_graph,
                }
                for (sender, receiver, part), score in self.edges.items()
            },
        }
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        return path

    def plot(self) -> go.Figure:
        """Heads by layer, edges of the circuit between them: orange where the path supports the answer, blue where it
        works against it, the wider the larger."""
        import plotly.graph_objects as go

        places = {name: _place(name, self.n_layers) for edge in self.in_graph for name in edge[:2]}
        most = max((abs(self.edges[edge]) for edge in self.in_graph), default=1.0)
        figure = go.Figure()
        for edge in sorted(self.in_graph, key=lambda edge: abs(self.edges[edge])):
            sender, receiver, part = edge
            score = self.edges[edge]
            (x0, y0), (x1, y1) = places[sender], places[receiver]
            figure.add_scatter(
                x=[x0, (x0 + x1) / 2, x1],
                y=[y0, (y0 + y1) / 2 + 0.15, y1],
                mode="lines",
                line={"width": 1 + 5 * abs(score) / most, "color": POSITIVE if score > 0 else NEGATIVE},
                line_shape="spline",
                text=[f"{_label(sender)} to {_label(receiver)}{f' ({part})' if part else ''}: {score:.3g}"] * 3,
                hoverinfo="text",
                showlegend=False,
            )
        figure.add_scatter(
            x=[x for x, _ in places.values()],
            y=[y for _, y in places.values()],
            text=[_label(name) for name in places],
            mode="markers+text",
            textposition="top center",
            marker={"size": 12, "color": GREY},
            hoverinfo="text",
            showlegend=False,
        )
        figure.update_xaxes(title="Layer", dtick=1)
        figure.update_yaxes(title="Head", autorange="reversed")
        return finish(figure)


@public
def load_graph(path: str | Path, model: Model | None = None) -> CircuitGraph:
    """Read an ``importances.json``; a graph of another model than ``model`` is refused.

    Raises:
        ValueError: a file that is none, edges between what is no node, scores that are no numbers, and a graph of other
            numbers of layers and heads, or of another name, than the model has.
        OSError: one that can't be read.
    """
    path = Path(path)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        config, given = record["cfg"], record["edges"]
        n_layers, n_heads = int(config["n_layers"]), int(config["n_heads"])
    except (ValueError, KeyError, TypeError) as error:
        expected = "expected cfg with n_layers and n_heads, and edges"
        raise ValueError(f"{path} is no importances.json ({error}); {expected}.") from None
    edges: dict[tuple[str, str, str], float] = {}
    within = set()
    for name, value in given.items():
        edge = _edge(name, n_layers, n_heads, path)
        row: Any = value if isinstance(value, dict) else {"score": value}
        score = row.get("score", 0.0)
        if not isinstance(score, int | float) or not np.isfinite(score):
            raise ValueError(f"{path}: the edge {name} has the score {score!r}; expected a finite number.")
        edges[edge] = float(score)
        if row.get("in_graph", False):
            within.add(edge)
    if model is not None and (n_layers, n_heads) != (model.n_layers, model.n_heads):
        raise ValueError(
            f"{path} is the graph of another model, of {n_layers} layers with {n_heads} heads; {model.name} has "
            f"{model.n_layers} with {model.n_heads}."
        )
    name = str(config.get("model_name", ""))
    if model is not None and name and name != model.name:
        raise ValueError(f"{path} is the graph of {name}; the model is {model.name}.")
    return CircuitGraph(edges, frozenset(within), n_layers, n_heads, name, int(config.get("d_model", 0)))


def _edge(name: str, n_layers: int, n_heads: int, path: Path) -> tuple[str, str, str]:
    found = _EDGE.match(name)
    ends = (found["sender"], found["receiver"]) if found else ()
    for end in ends:
        node = _NODE.match(end)
        layer, head = (int(node[1] or node[3] or 0), int(node[2] or 0)) if node else (n_layers, 0)
        if layer >= n_layers or head >= n_heads:
            raise ValueError(f"{path}: the edge {name} ends in {end!r}, which a model of {n_layers} x {n_heads} lacks.")
    if not found:
        raise ValueError(f"{path}: {name!r} is no edge; expected names such as a0.h1->a2.h3<q> or m1->logits.")
    return found["sender"], found["receiver"], found["part"] or ""


def _name(head: Head) -> str:
    return f"a{head[0]}.h{head[1]}"


def _head(name: str) -> Head:
    layer, head = name[1:].split(".h")
    return int(layer), int(head)


def _label(name: str) -> str:
    return head_label(*_head(name)) if name.startswith("a") else name


def _place(name: str, n_layers: int) -> tuple[float, float]:
    if name.startswith("a"):
        return tuple(map(float, _head(name)))
    return {"input": -1.0, "logits": float(n_layers)}.get(name, float(name[1:]) + 0.5 if name[0] == "m" else 0.0), 0.0

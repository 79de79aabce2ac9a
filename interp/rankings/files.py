"""Save a ranking to a directory of open formats, and load it again. No pickle.

ranking.csv, ranking.parquet   the table, one row for each head
scores.safetensors             every measure [example, layer, head] and the arrays of the views, float32
report.html                    for reading
report.json                    everything else, with the SHA-256 of the files above; written last
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save as save_tensors

from interp.door import public
from interp.figures import TokenView, head_label
from interp.rankings import report
from interp.rankings.controls import control_summary
from interp.rankings.ranking import HeadRanking
from interp.records import understood, write_csv
from interp.reports import read_record, read_tensors, save_report, write_record

FILES = (
    "ranking.csv",
    "ranking.parquet",
    "scores.safetensors",
    "report.html",
    "report.json",
)  # in order of arrival


def save_ranking(ranking: HeadRanking, directory: str | Path, overwrite: bool = False) -> Path:
    """Write the files above into `directory`, which is made if needed; returns it.

    A report of the same run (equal `provenance["run_id"]`) is replaced. Raises FileExistsError if the
    directory holds a report of another run, or of one that cannot be told, unless `overwrite`.
    """
    return save_report(
        directory, lambda folder: _write(ranking, folder), ranking.provenance.get("run_id"), overwrite=overwrite
    )


@public
def load_ranking(directory: str | Path) -> HeadRanking:
    """The ranking that `save_ranking` wrote: equal measures bit for bit, equal views and provenance."""
    directory = Path(directory)
    data = read_record(directory, "report.json", needs=("scores.safetensors",), kind="ranking")
    tensors = read_tensors(directory / "scores.safetensors", data)
    with understood(directory / "report.json"):
        return _ranking(data, tensors)


def _ranking(data: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> HeadRanking:
    views = tuple(
        TokenView(
            view["example_id"],
            view["title"],
            tuple(view["tokens"]),
            {
                (entry["layer"], entry["head"]): {kind: tensors[key] for kind, key in entry["arrays"].items()}
                for entry in view["heads"]
            },
        )
        for view in data["views"]
    )
    return HeadRanking(
        score=data["score"],
        measures={name: tensors[_measure_key(name)] for name in data["measures"]},
        example_ids=tuple(data["example_ids"]),
        descriptions=data["descriptions"],
        provenance=data["provenance"],
        views=views,
        controls=tuple(data.get("controls", ())),  # a file from before there were controls names none
        tested_by=data.get("tested_by", {}),
    )


def _write(ranking: HeadRanking, directory: Path) -> Sequence[str]:
    frame = ranking.to_frame()
    write_csv(frame, directory / "ranking.csv")
    frame.to_parquet(directory / "ranking.parquet", index=False)
    tensors: dict[str, np.ndarray] = {_measure_key(name): array for name, array in ranking.measures.items()}
    views = []
    for i, view in enumerate(ranking.views):
        heads = []
        for (layer, head), values in view.heads.items():
            keys = {kind: f"views/{i}/{head_label(layer, head)}/{kind}" for kind in values}
            tensors |= {keys[kind]: array for kind, array in values.items()}
            heads.append({"layer": layer, "head": head, "arrays": keys})
        views.append({"example_id": view.example_id, "title": view.title, "tokens": list(view.tokens), "heads": heads})
    content = save_tensors(tensors, metadata={"format": "headscope ranking"})
    (directory / "scores.safetensors").write_bytes(content)
    (directory / "report.html").write_text(report.render(ranking), encoding="utf-8")
    data = {
        "score": ranking.score,
        "summary": {
            "n_examples": ranking.n_examples,
            "n_layers": ranking.n_layers,
            "n_heads": ranking.n_heads,
            "statement": report.statement(ranking),
            "top": ranking.top(20).to_dict("records"),
            "reliability": ranking.reliability._asdict(),
            "controls": control_summary(ranking).to_dict("records"),
        },
        "provenance": ranking.provenance,
        "measures": list(ranking.measures),
        "controls": list(ranking.controls),
        "tested_by": ranking.tested_by,
        "descriptions": ranking.descriptions,
        "example_ids": list(ranking.example_ids),
        "views": views,
    }
    write_record(directory / "report.json", data, FILES[:-1])
    return FILES


def _measure_key(name: str) -> str:
    return f"measures/{name}"

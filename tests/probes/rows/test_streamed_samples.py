"""A sample of a file that does not fit is the one that the file in memory gives."""

from __future__ import annotations

import json
from dataclasses import asdict

import pandas as pd
import pytest

from probes.questions.questions import load_questions
from probes.requests.requests import load_requests
from probes.rows import rows

N = 300


def question(i: int) -> dict:
    """Pairs, domains of several sizes, and a question that is there twice."""
    asked = f"Is number {i % 290} {'even' if i % 3 else 'odd'}?"
    return {"id": str(i), "question": asked, "answer": "Yes" if i % 4 else "No", "domain": f"d{min(i % 7, 3)}"}


def request(i: int) -> dict:
    kind, pair = ("harmful", "harmless")[i % 2], str(i // 2) if i < 200 else None
    return {"id": str(i), "text": f"Tell me of number {i}.", "kind": kind, "category": f"c{i % 5}", "pair": pair}


@pytest.mark.parametrize("form", ["jsonl", "csv"])
@pytest.mark.parametrize(("load", "row"), [(load_questions, question), (load_requests, request)])
@pytest.mark.parametrize("limit", [2, 20, 151, N + 5])
def test_a_streamed_sample_is_the_one_in_memory(tmp_path, monkeypatch, load, row, form, limit):
    path, made = tmp_path / f"items.{form}", [row(i) for i in range(N)]
    if form == "jsonl":
        path.write_text("".join(json.dumps(one) + "\n" for one in made), "utf-8")
    else:
        pd.DataFrame(made).to_csv(path, index=False)
    for seed in (0, 1):
        in_memory = [asdict(item) for item in load(path, limit=limit, seed=seed)]
        with monkeypatch.context() as patched:
            patched.setattr(rows, "IN_MEMORY", 40)
            streamed = [asdict(item) for item in load(path, limit=limit, seed=seed)]
        assert streamed == in_memory and 0 < len(in_memory) <= limit

"""Long work says how far it is: without a terminal a line every so often; only the outermost work does."""

from __future__ import annotations

import time

import numpy as np
import pytest

from interp.records import in_time, run_batches, showing_progress as shown
from interp.records.progress import told


@pytest.fixture
def often(monkeypatch):
    monkeypatch.setattr("interp.records.progress.INTERVAL_S", 0.02)


def test_words():
    assert told("scan", 0, 10, 40) == "scan: 0 of 10 after 40 s"
    assert told("scan", 5, 10, 600) == "scan: 5 of 10 after 10 min, about 10 min left"
    assert told("scan", 10, 10, 1) == "scan: 10 of 10 after 1 s"
    assert [in_time(s) for s in (0.2, 5, 180, 7300)] == ["a second", "5 s", "3 min", "2.0 h"]


def test_lines_where_there_is_no_terminal(often, capsys):
    with shown("counting", 4) as advance:
        advance(1)
        time.sleep(0.2)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 2 and all(line.startswith("counting: 1 of 4 after a second, about") for line in lines)
    time.sleep(0.1)
    assert not capsys.readouterr().err  # nothing once it is done


def test_only_the_outermost_work_is_shown(often, capsys):
    def score(batch):
        with shown("inner", 9) as advance:
            advance(1)
            time.sleep(0.1)
        return {"x": np.zeros(len(batch))}

    run_batches([1, 2], score, batch_size=1, title="outer")
    said = capsys.readouterr().err
    assert "outer: 0 of 2" in said and "inner" not in said


def test_short_work_says_nothing(often, capsys):
    with shown("short", 2, after_s=60) as advance:
        advance(1)
        time.sleep(0.1)
    assert not capsys.readouterr().err


def test_an_error_ends_it(often, capsys):
    with pytest.raises(ValueError, match="broken"), shown("breaking", 2):
        raise ValueError("broken")
    capsys.readouterr()
    time.sleep(0.1)
    assert not capsys.readouterr().err


def test_a_notebook_has_a_bar_that_moves_and_goes(monkeypatch):
    pytest.importorskip("IPython")
    seen: list[str] = []

    class Handle:
        def update(self, shown) -> None:
            seen.append(shown.data)

    def display(shown, display_id):
        seen.append(shown.data)
        return Handle()

    monkeypatch.setattr("interp.records.progress._in_notebook", lambda: True)
    monkeypatch.setattr("interp.records.progress.SHORT_S", 0.0)
    monkeypatch.setattr("IPython.display.display", display)
    with shown("counting", 2) as advance:
        advance(1)
        time.sleep(0.4)
        advance(1)
    assert "value='1'" in seen[0] and "counting: 1 of 2" in seen[0] and "value='2'" in seen[1] and seen[2] == ""

"""What is fitted on, what is kept back: halves with no request in both, tests of one's own, limits that keep twins."""

from __future__ import annotations

from pathlib import Path

import pytest

from probes import harmfulness
from probes.requests.requests import SCARY, SHIPPED, require_disjoint
from probes.requests.sets import divide_requests


def write(path: Path, verb: str, n: int, start: int = 0) -> str:
    path.write_text("\n".join(["text", *(f"{verb} the door number {i}." for i in range(start, start + n)), ""]))
    return str(path)


@pytest.fixture
def files(tmp_path) -> dict[str, str]:
    return {
        "harmful": write(tmp_path / "harmful.csv", "Break", 40),
        "harmless": write(tmp_path / "harmless.csv", "Paint", 60),
        "other_harmful": write(tmp_path / "other_harmful.csv", "Break", 12, start=100),
        "other_harmless": write(tmp_path / "other_harmless.csv", "Paint", 12, start=100),
        "mixed": write(tmp_path / "mixed.csv", "Paint", 30, start=20),
        "few": write(tmp_path / "few.csv", "Break", 9, start=200),
    }


def counts(requests) -> tuple[int, int]:
    return sum(r.is_harmful for r in requests), sum(not r.is_harmful for r in requests)


def test_half_of_the_shipped_requests_is_kept_back():
    sets = divide_requests()
    assert len(sets.all) == len({r.id for r in sets.all}) == 400
    assert counts(sets.fit) == counts(sets.held_out) == (75, 125)
    require_disjoint(sets.fit, sets.held_out)
    assert divide_requests(seed=0) == sets != divide_requests(seed=1)


@pytest.mark.parametrize("limit", [10, 30, 100])
def test_a_limit_keeps_twins_together_and_scary_ones_in(limit):
    sets = divide_requests(limit=limit)
    for part in (sets.fit, sets.held_out):
        harmful, harmless = counts(part)
        assert harmful == min(limit, 75) and harmless == limit
        pairs = {r.pair for r in part if r.is_harmful}
        twins = [r for r in part if r.source == SHIPPED and not r.is_harmful]
        assert {r.pair for r in twins} <= pairs
        assert len(twins) == 0.6 * limit and sum(r.source == SCARY for r in part) == 0.4 * limit


def test_files_and_tests_of_their_own(files):
    sets = divide_requests([files["harmful"]], [files["harmless"]], limit=15)
    assert counts(sets.fit) == counts(sets.held_out) == (15, 15)
    tests = [files["other_harmful"]], [files["other_harmless"]]
    sets = divide_requests([files["harmful"]], [files["harmless"]], *tests, limit=20)
    assert counts(sets.fit) == (20, 20) and counts(sets.held_out) == (12, 12)
    assert {r.source for r in sets.held_out} == {"other_harmful", "other_harmless"}


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ((["few"], ["harmless"]), r"9 harmful requests; expected at least 20: 11 more, since half"),
        ((["harmful"], ["harmless"], ["few"], ["other_harmless"]), r"9 harmful requests to test on; .* 1 more there"),
        ((["few"], ["harmless"], ["other_harmful"], ["other_harmless"]), r"9 harmful requests to fit on"),
        ((["harmful"], ["harmless"], ["harmful"], ["other_harmless"]), r"40 of 52 requests to test on .*harmful-1, "),
        ((["harmful"], ["harmless"], ["other_harmful"]), r"of one kind; give both"),
        ((["mixed"], ["harmless"]), r"30 texts are both harmless and harmful: harmless-21 and mixed-1"),
        ((["harmful"], ["harmful"]), r"requests share ids: harmful-1"),
        ((["harmful", "harmful"], ["harmless"]), r"requests share ids: harmful-1"),
    ],
)
def test_bad_sets_are_refused(files, sources, message):
    with pytest.raises(ValueError, match=message):
        divide_requests(*([files[name] for name in part] for part in sources))


def test_the_public_face_has_what_it_names():
    assert all(hasattr(harmfulness, name) for name in harmfulness.__all__)
    assert sorted(harmfulness.__all__) == sorted(set(harmfulness.__all__))

"""Intervals and verdicts are made in one place: no other code writes an interval, or asks where it lies."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(
    path for folder in ("interp", "probes", "notebooks", "tests/benchmarks") for path in (ROOT / folder).glob("**/*.py")
)
HOME = ROOT / "interp" / "statistics"  # Estimate, Claim, and what they are made of
NOT_INTERVALS = {  # ends of a span of characters, limits of a factor, the range of a measure
    "interp/fitting/factors.py",
    "interp/prompts/building.py",
    "interp/rankings/measures.py",
    "tests/benchmarks/figures.py",  # and of an axis
}
LOW, HIGH = (re.compile(rf"(^|[^a-z]){end}($|[^a-z])") for end in ("low", "high"))
MAKERS = ("Estimate", "bracketed", "Claim")


def wrong(source: str) -> list[str]:
    """What a file writes or decides by hand, with its lines."""
    return [f"line {node.lineno}: {ast.unparse(node)}" for node in ast.walk(ast.parse(source)) if is_by_hand(node)]


def is_by_hand(node: ast.AST) -> bool:
    if isinstance(node, ast.JoinedStr):
        parts = [part for part in node.values if isinstance(part, ast.FormattedValue)]
        written = [ast.unparse(part.value) for part in parts if not calls(part.value)]
        return is_bracketed(node.values) or (any(map(LOW.search, written)) and any(map(HIGH.search, written)))
    if isinstance(node, ast.Compare) and any(isinstance(op, ast.Lt | ast.LtE | ast.Gt | ast.GtE) for op in node.ops):
        sides = [node.left, *node.comparators]
        if any(isinstance(side, ast.Constant) and isinstance(side.value, int | float) for side in sides):
            return any(LOW.search(text) or HIGH.search(text) for text in map(ast.unparse, sides))
    return False


def calls(value: ast.expr) -> bool:
    """Whether what is written was made by the one place."""
    return any(isinstance(n, ast.Name) and n.id in MAKERS for n in ast.walk(value))


def is_bracketed(parts: list[ast.expr]) -> bool:
    """Whether two values stand as [a, b]."""
    for first, a, between, b, last in zip(*(parts[i:] for i in range(5)), strict=False):
        texts = [part.value if isinstance(part, ast.Constant) else None for part in (first, between, last)]
        if None in texts or not all(isinstance(part, ast.FormattedValue) for part in (a, b)):
            continue
        if texts[0].endswith("[") and texts[1] in (", ", " to ") and texts[2].startswith("]"):
            return True
    return False


def test_no_interval_is_written_by_hand():
    files = [path for path in FILES if HOME not in path.parents]
    names = {path.relative_to(ROOT).as_posix(): path for path in files}
    found = {name: wrong(path.read_text("utf-8")) for name, path in names.items() if name not in NOT_INTERVALS}
    assert len(found) > 300
    assert not {name: lines for name, lines in found.items() if lines}, "use Estimate's format and side_of, or a Claim"


@pytest.mark.parametrize(
    "code",
    [
        "f'{value:.2f} [{a:.2f}, {b:.2f}]'",
        "f'{row.low} to {row.high}'",
        "f\"{row['x_low']:.2f} {row['x_high']:.2f}\"",
        "row['change_low'] > 0",
        "not bias.ci_high < 0.5",
        "(frame['change_low'] > 0).sum()",
    ],
)
def test_the_rule_finds_what_it_should(code):
    assert wrong(code)


@pytest.mark.parametrize(
    "code",
    [
        "f'{Estimate(row.x, row.x_low, row.x_high):.2f}'",
        "f'{change:+.2f}, {bracketed(found.low, found.high, number)}'",
        "row['lowest'] > 0",
        "f'{first} of {last}'",
        "f'[{a}, {b}, {c}]'",
        "low > null",
    ],
)
def test_the_rule_lets_the_rest_pass(code):
    assert not wrong(code)

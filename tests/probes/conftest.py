"""The command line, called as a shell would."""

from __future__ import annotations

import re
import sys

import pytest

from probes.cli import app as cli


@pytest.fixture
def run(monkeypatch, capsys):
    """Calls `interp ...` as a shell would; returns exit code, stdout and stderr (as wide lines, without colours)."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setenv("COLUMNS", "300")
        monkeypatch.setattr(sys, "argv", ["interp", *map(str, arguments)])
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        captured = capsys.readouterr()
        out, err = (re.sub(r"\x1b\[[0-9;]*m", "", text) for text in captured)
        return code, out, err

    return call

"""The committed table of what works offloaded and quantised is what happens."""

from __future__ import annotations

import pytest

pytest.importorskip("accelerate", reason="offloading is accelerate's")
pytest.importorskip("bitsandbytes", reason="4-bit and 8-bit layers are bitsandbytes'")


def test_the_table_is_what_happens():
    from interp.reports.markdown import markdown
    from tests.benchmarks.large_models import PAGE, WAYS, outcomes

    table = outcomes()
    assert not table[list(WAYS)].isin(["WRONG"]).any(axis=None) and "BREAKS" not in markdown(table)
    assert markdown(table) in PAGE.read_text(encoding="utf-8"), "write it anew: python -m tests.benchmarks.large_models"

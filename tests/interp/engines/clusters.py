"""A local Ray cluster for tests."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from interp.engines import require_ray

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="needs the ray extra: pip install -e '.[ray]'"
)
_SLOW = "rfc3987_syntax"  # jupyter brings it; jsonschema, which Ray imports, does without


@contextmanager
def local_cluster(folder: Path, n_cpus: int = 2) -> Iterator[str]:
    """A cluster of this machine, its address. Each of Ray's processes would import a parser of addresses that nobody
    asks, for five seconds; a file in ``folder`` spares them that."""
    (folder / f"{_SLOW}.py").write_text("raise ImportError\n", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))
        patched.setitem(sys.modules, _SLOW, None)
        ray = require_ray()
        context = ray.init(num_cpus=n_cpus, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        try:
            yield context.address_info["gcs_address"]
        finally:
            ray.shutdown()

import sys

import pytest

from interp.engines import run_on_ray


def test_without_ray_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ModuleNotFoundError, match=r"the engine 'ray' needs Ray: python -m pip install .*ray"):
        run_on_ray(lambda: None)

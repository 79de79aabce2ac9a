"""Shared models. Tiny ones are random; `smollm2` is the real default model, downloaded once into the user's cache."""

from __future__ import annotations

import os

import pytest

import tests.shapes  # noqa: F401  # before anything of the packages

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here may ask a hub

import interp
from tests.tiny import tiny


@pytest.fixture(scope="session")
def smollm2() -> interp.Model:
    return interp.load("smollm2-135m")


@pytest.fixture(scope="session")
def llama() -> interp.Model:
    return interp.load(tiny("llama"))

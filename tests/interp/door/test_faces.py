"""Faces hand names on when they are asked for, and old paths find what moved."""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from importlib import import_module

import pytest

import interp
from interp.door.moved import NAMES, PLACES

STUDIES = ("probes.harmfulness", "probes.negative_bias", "probes.latent_guard", "probes.visual_semantics")


def test_names_are_handed_on_when_asked_for():
    code = "import sys, interp; assert 'torch' not in sys.modules; interp.load; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert set(interp.__all__) <= set(dir(interp)) and callable(interp.load)
    assert interp.capture is import_module("interp.reading.capture")
    with pytest.raises(AttributeError, match="has no attribute 'lode'"):
        _ = interp.lode


@pytest.mark.parametrize("old", ["interp.capture", "probes.negative_attention", "probes.jailbreaks", "interp.prompt"])
def test_old_paths_find_what_moved(old):
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=f"{old} is now {PLACES[old]}"):
        assert import_module(old) is import_module(PLACES[old])
    assert import_module(PLACES[old]).__spec__.name == PLACES[old]


def test_every_old_path_leads_somewhere():
    from tests.test_layers import MODULES

    assert set(PLACES.values()) <= set(MODULES) and not set(PLACES) & set(MODULES)


@pytest.mark.parametrize("face", list(NAMES))
def test_names_that_a_face_no_longer_hands_on_are_found_in_their_rooms(face):
    handed_on = import_module(face)
    for name, room in NAMES[face].items():
        assert name not in handed_on.__all__
        with pytest.warns(DeprecationWarning, match=rf"{face}.{name} is now {room}.{name}"):
            assert getattr(handed_on, name) is getattr(import_module(room), name)


@pytest.mark.parametrize(("face", "most"), [("interp", 38), *((f, 25) for f in STUDIES)])
def test_faces_are_narrow(face, most):
    assert len(import_module(face).__all__) <= most, "hand it on from its room"


def test_no_public_name_means_two_things():
    """A name that two rooms hand on is one object: who reads it in one file knows it in another."""
    from tests.test_layers import MODULES

    faces = [import_module(name) for name, path in MODULES.items() if path.name == "__init__.py"]
    found = defaultdict(lambda: defaultdict(list))
    for face in faces:
        for name in getattr(face, "__all__", ()):
            found[name][id(getattr(face, name))].append(face.__name__)
    assert {"load", "Claim", "modulate"} <= set(found)
    assert {name: [*meanings.values()] for name, meanings in found.items() if len(meanings) > 1} == {}

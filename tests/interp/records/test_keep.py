"""One parameter for where a study is kept, and its fields by name."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from interp.door import public
from interp.door.door import _KEPT, WrongArgument
from interp.records import Keep, Kept, keep_of, keeps_work
from interp.records.folder_lock import is_held


@public
@keeps_work
def study(n: int, keep: Kept = None) -> Keep:
    """A study that says what it is given, and whether its folder is held."""
    made = keep_of(keep)
    assert made.folder is None or is_held(made.folder)
    return made


def test_a_keep_its_folder_and_its_fields_are_one(tmp_path):
    same = [
        study(1, keep=Keep(tmp_path, resume=True)),
        study(1, Keep(str(tmp_path), resume=True)),
        study(1, out=tmp_path, resume=True),
        study(1, keep={"out": tmp_path, "resume": True}),
    ]
    assert all(k.folder == tmp_path and k.resume and not k.overwrite for k in same)
    assert study(1, tmp_path).folder == study(1, out=str(tmp_path)).folder == tmp_path
    assert study(1).folder is None and study(1, resume=True).resume
    assert study(1, out=Path("~") / "headscope-x").folder == Path.home() / "headscope-x"


@pytest.mark.parametrize(
    ("given", "named"),
    [({"resume": "yes"}, "resume"), ({"out": 3}, "out"), ({"keep": 3}, "keep"), ({"Out": "a"}, "Out")],
)
def test_what_is_wrong_is_named(given, named):
    with pytest.raises(WrongArgument, match=named):
        study(1, **given)


def test_a_study_takes_every_field_of_keep_by_name():
    """The door, below the records, has a list of them of its own."""
    assert {field.name for field in fields(Keep)} == _KEPT

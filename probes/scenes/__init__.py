"""Scenes of simple objects: drawn, asked about, edited."""

from typing import TYPE_CHECKING

from interp.door.faces import hands_on

if TYPE_CHECKING:
    from probes.scenes.edits import EditedPair as EditedPair, edit as edit, edited_pairs as edited_pairs
    from probes.scenes.questions import LEVELS as LEVELS, ask as ask, ask_pair as ask_pair
    from probes.scenes.renderer import render as render
    from probes.scenes.scenes import (
        SPLITS as SPLITS,
        Scene as Scene,
        SceneObject as SceneObject,
        sample_scene as sample_scene,
        split_of as split_of,
    )
    from probes.scenes.splits import SceneSplit as SceneSplit, scene_split as scene_split

__getattr__, __dir__, __all__ = hands_on(__name__, __file__)

"""An MkDocs hook: an explorer to click on the site, made when it is built, of the model of pictures that travels with
the package: no network, no model to download."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

PAGE = "explorers/scenes.html"
N_SCENES = 10


def on_files(files: Any, config: Any) -> Any:
    files.append(File.generated(config, PAGE, content=scenes_page()))
    return files


def scenes_page(n: int = N_SCENES) -> str:
    """The heads of ``scenes-llava-tiny`` on a few questions about drawn scenes."""
    import interp
    from probes import visual_semantics as vs
    from probes.scenes import edited_pairs, render

    model = interp.load("scenes-llava-tiny")
    pairs = list(edited_pairs("test", n, difficulty="easy", level="attribute", kind="open"))
    asked = vs.scene_examples(model, [(pair.before, [pair.question]) for pair in pairs], 96)
    pictures = [render(pair.before, 96).image for pair in pairs]
    found = interp.explore(model, [one.prompt for one in asked], pictures=pictures, positions="all")
    with tempfile.TemporaryDirectory() as folder:
        return found.save_explorer(Path(folder) / "scenes.html").read_text(encoding="utf-8")

"""The explorer as an anywidget: the page's script, and a model that answers the sliders."""

from __future__ import annotations

from typing import Any

from interp.explorer.exploration import Exploration
from interp.explorer.packing import kept_steps, packed
from interp.explorer.page import source
from interp.sources import install_extra

try:
    import anywidget
    import traitlets
except ImportError as error:
    raise ModuleNotFoundError(f"the widget needs anywidget: {install_extra('explorer')}") from error


class Widget(anywidget.AnyWidget):
    """What a notebook shows of an exploration. Numbers travel as bytes, once; a slider asks by message."""

    _esm = source("explorer.js", "widget.js")
    _css = source("explorer.css")
    packed = traitlets.Bytes().tag(sync=True)
    is_live = traitlets.Bool().tag(sync=True)


def widget_of(exploration: Exploration, live: Any = None) -> Widget:
    """The widget; ``live`` (:class:`interp.explorer.exploring.Live`) answers its sliders."""
    made = Widget(packed=packed(exploration, kept_steps(exploration)[0]), is_live=live is not None)
    if live is not None:
        made.on_msg(lambda widget, content, buffers: widget.send(answer(live, content)))
    return made


def answer(live: Any, asked: dict[str, Any]) -> dict[str, Any]:
    """The reply to a message of the script: prompt, heads as [layer, head, factor], and the number that it gave."""
    try:
        factors = {(int(layer), int(head)): float(factor) for layer, head, factor in asked["heads"]}
        return {"number": asked["number"], "found": live.probabilities(int(asked["prompt"]), factors)}
    except Exception as error:  # is shown where the slider is: a traceback in a comm would be lost
        return {"number": asked.get("number"), "found": None, "error": f"{type(error).__name__}: {error}"}

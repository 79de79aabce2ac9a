"""Heads to look at and to turn: one offline page, or a widget in a notebook."""

from typing import TYPE_CHECKING

from interp.door.faces import hands_on

if TYPE_CHECKING:
    from interp.explorer.exploration import (
        Exploration as Exploration,
        ExploredPrompt as ExploredPrompt,
        exploration_of as exploration_of,
    )
    from interp.explorer.exploring import explore as explore
    from interp.explorer.runs import find_runs as find_runs, save_runs as save_runs

__getattr__, __dir__, __all__ = hands_on(__name__, __file__)

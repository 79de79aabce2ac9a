"""The command line."""

from typing import TYPE_CHECKING

from interp.door.faces import hands_on

if TYPE_CHECKING:
    from probes.cli.app import main as main

__getattr__, __dir__, __all__ = hands_on(__name__, __file__)

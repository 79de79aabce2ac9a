"""Programs in RASP, compiled to the weights of a GPT-2: which heads compute what is known by construction."""

from typing import TYPE_CHECKING

from interp.door.faces import hands_on

if TYPE_CHECKING:
    from probes.known_answers.programs.listing import PROGRAMS as PROGRAMS
    from probes.known_answers.programs.rasp import Program as Program
    from probes.known_answers.programs.weights import (
        build_program as build_program,
        empty_program as empty_program,
        program_names as program_names,
        program_task as program_task,
    )

__getattr__, __dir__, __all__ = hands_on(__name__, __file__)

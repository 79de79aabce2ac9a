"""What an edit of each head does, in one pass for many edits."""

from typing import TYPE_CHECKING

from interp.door.faces import hands_on

if TYPE_CHECKING:
    from interp.scans.again import AskedAgain as AskedAgain
    from interp.scans.agreement import FanOutDisagreement as FanOutDisagreement, Method as Method
    from interp.scans.branches import (
        Positions as Positions,
        last_positions as last_positions,
        span_length as span_length,
    )
    from interp.scans.head_writing import scan_projection as scan_projection, write_along as write_along
    from interp.scans.readings import IsMostProbable as IsMostProbable, scan_readings as scan_readings
    from interp.scans.tracing import Logit as Logit, trace as trace

__getattr__, __dir__, __all__ = hands_on(__name__, __file__)

"""Find the attention heads that make a model behave like this, and see what happens when they change."""

from interp import capture
from interp.attribution import Attribution, attribute
from interp.comparison import compare
from interp.directions import Direction, load_direction
from interp.edits import Branch, EachHead, HeadEdit, ResidualEdit, ablate_each_head, patch_each_head, scale_each_head
from interp.findings import Findings, load_findings
from interp.loading import load
from interp.metrics import LogitDifference, Probability
from interp.model import Model, NonFiniteLogitsError
from interp.prompts import Prompt
from interp.ranking import HeadRanking
from interp.scan import ScanResult, scan
from interp.steering import Steering, add_direction, clamp_direction, load_steering, remove_direction
from interp.storage import load_ranking

__all__ = [
    "Attribution",
    "Branch",
    "Direction",
    "EachHead",
    "Findings",
    "HeadEdit",
    "HeadRanking",
    "LogitDifference",
    "Model",
    "NonFiniteLogitsError",
    "Probability",
    "Prompt",
    "ResidualEdit",
    "ScanResult",
    "Steering",
    "ablate_each_head",
    "add_direction",
    "attribute",
    "capture",
    "clamp_direction",
    "compare",
    "load",
    "load_direction",
    "load_findings",
    "load_ranking",
    "load_steering",
    "patch_each_head",
    "remove_direction",
    "scale_each_head",
    "scan",
]

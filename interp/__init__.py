"""Find the attention heads that make a model behave like this, and see what happens when they change."""

from interp import capture
from interp.attribution import Attribution, attribute
from interp.comparison import compare
from interp.edits import Branch, EachHead, HeadEdit, ablate_each_head, patch_each_head, scale_each_head
from interp.loading import load
from interp.metrics import LogitDifference, Probability
from interp.model import Model, NonFiniteLogitsError
from interp.prompts import Prompt
from interp.ranking import HeadRanking
from interp.scan import ScanResult, scan
from interp.storage import load_ranking

__all__ = [
    "Attribution",
    "Branch",
    "EachHead",
    "HeadEdit",
    "HeadRanking",
    "LogitDifference",
    "Model",
    "NonFiniteLogitsError",
    "Probability",
    "Prompt",
    "ScanResult",
    "ablate_each_head",
    "attribute",
    "capture",
    "compare",
    "load",
    "load_ranking",
    "patch_each_head",
    "scale_each_head",
    "scan",
]

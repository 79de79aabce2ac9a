"""Find the attention heads that make a model behave like this, and see what happens when they change."""

from interp import capture
from interp.edits import Branch, EachHead, HeadEdit, ablate_each_head, patch_each_head, scale_each_head
from interp.metrics import LogitDifference, Probability
from interp.model import Model, NonFiniteLogitsError, load
from interp.prompts import Prompt
from interp.scan import ScanResult, scan

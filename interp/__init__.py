"""Find the attention heads that make a model behave like this, and see what happens when they change."""

from interp import capture
from interp.answer_mass import AnswerMass, answer_mass
from interp.attribution import Attribution, attribute
from interp.comparison import compare
from interp.composed_edits import Edits, load_edit
from interp.control_vectors import load_control_vector, save_control_vector
from interp.directions import Direction, load_direction
from interp.edits import Branch, EachHead, HeadEdit, ResidualEdit, ablate_each_head, patch_each_head, scale_each_head
from interp.findings import Findings, load_findings
from interp.head_scales import ScaledHeads
from interp.head_weights import TunedHeads
from interp.images import read_image
from interp.loading import load
from interp.metrics import LogitDifference, Probability
from interp.model import Model, NonFiniteLogitsError
from interp.prompts import Prompt
from interp.ranking import HeadRanking
from interp.scan import ScanResult, scan
from interp.side_by_side import compare_rankings
from interp.steering import Steering, add_direction, clamp_direction, remove_direction
from interp.storage import load_ranking
from interp.tracing import trace
from interp.weight_identity import describe_model

__all__ = [
    "AnswerMass",
    "Attribution",
    "Branch",
    "Direction",
    "EachHead",
    "Edits",
    "Findings",
    "HeadEdit",
    "HeadRanking",
    "LogitDifference",
    "Model",
    "NonFiniteLogitsError",
    "Probability",
    "Prompt",
    "ResidualEdit",
    "ScaledHeads",
    "ScanResult",
    "Steering",
    "TunedHeads",
    "ablate_each_head",
    "add_direction",
    "answer_mass",
    "attribute",
    "capture",
    "clamp_direction",
    "compare",
    "compare_rankings",
    "describe_model",
    "load",
    "load_control_vector",
    "load_direction",
    "load_edit",
    "load_findings",
    "load_ranking",
    "patch_each_head",
    "read_image",
    "remove_direction",
    "save_control_vector",
    "scale_each_head",
    "scan",
    "trace",
]

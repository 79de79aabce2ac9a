"""Find the attention heads that make a model behave like this, and see what happens when they change."""

from typing import TYPE_CHECKING

from interp.door.faces import hands_on
from interp.door.moved import follow_moved

if TYPE_CHECKING:
    from interp.edits.composed import Edits as Edits, load_edit as load_edit
    from interp.edits.directions import Direction as Direction, load_direction as load_direction
    from interp.edits.head_scales import ScaledHeads as ScaledHeads
    from interp.edits.identity import describe_model as describe_model
    from interp.edits.steering import add_direction as add_direction, remove_direction as remove_direction
    from interp.explorer.exploring import explore as explore
    from interp.interventions.values import (
        Branch as Branch,
        HeadEdit as HeadEdit,
        ResidualEdit as ResidualEdit,
        ablate_each_head as ablate_each_head,
        patch_each_head as patch_each_head,
        scale_each_head as scale_each_head,
    )
    from interp.models.answer_mass import answer_mass as answer_mass
    from interp.models.loading import load as load
    from interp.models.model import Model as Model
    from interp.passes.handle import NonFiniteLogitsError as NonFiniteLogitsError
    from interp.prompts.prompt import Prompt as Prompt
    from interp.rankings.comparison import compare as compare
    from interp.rankings.loading import load_ranking as load_ranking
    from interp.rankings.ranking import HeadRanking as HeadRanking
    from interp.rankings.side_by_side import compare_rankings as compare_rankings
    from interp.reading import capture as capture
    from interp.reading.attribution import attribute as attribute
    from interp.reading.lens import lens as lens
    from interp.reading.metrics import LogitDifference as LogitDifference, Probability as Probability
    from interp.records.keep import Keep as Keep
    from interp.reports.findings import Findings as Findings, load_findings as load_findings
    from interp.reports.result import Result as Result, load_result as load_result
    from interp.scans.scan import scan as scan
    from interp.scans.tracing import trace as trace
    from interp.sources.version import __version__ as __version__
    from interp.vision.images import read_image as read_image

follow_moved()
__getattr__, __dir__, __all__ = hands_on(__name__, __file__)

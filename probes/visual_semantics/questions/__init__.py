"""Questions about pictures: of scenes, of photographs, of public files."""

from typing import TYPE_CHECKING

from interp.door.faces import hands_on

if TYPE_CHECKING:
    from probes.visual_semantics.questions.asked import Asked as Asked, describe_asked as describe_asked
    from probes.visual_semantics.questions.benchmarks import (
        VisualQuestion as VisualQuestion,
        load_visual_questions as load_visual_questions,
    )
    from probes.visual_semantics.questions.conflict import Conflict as Conflict, conflicts as conflicts
    from probes.visual_semantics.questions.formats import FORMATS as FORMATS
    from probes.visual_semantics.questions.photo_questions import photo_pair_examples as photo_pair_examples
    from probes.visual_semantics.questions.prompts import (
        VisualExamples as VisualExamples,
        asked_of as asked_of,
        asking_of as asking_of,
        benchmark_examples as benchmark_examples,
        processor_pixels as processor_pixels,
        saved_scene_examples as saved_scene_examples,
        scene_examples as scene_examples,
        visual_examples as visual_examples,
    )
    from probes.visual_semantics.questions.sources import VisualSource as VisualSource, read_source as read_source
    from probes.visual_semantics.questions.wording import VisualExample as VisualExample

__getattr__, __dir__, __all__ = hands_on(__name__, __file__)

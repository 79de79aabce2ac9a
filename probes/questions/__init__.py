"""Questions with an answer: read, split, put into other forms."""

from typing import TYPE_CHECKING

from interp.door.faces import hands_on

if TYPE_CHECKING:
    from probes.questions.held_out import (
        LEAST_QUESTIONS as LEAST_QUESTIONS,
        apart_from as apart_from,
        divide as divide,
        marks as marks,
        overlap as overlap,
        require_probing_set as require_probing_set,
    )
    from probes.questions.instructions import Instruction as Instruction, build_prompts as build_prompts
    from probes.questions.open_answers import (
        MATCHES as MATCHES,
        Judged as Judged,
        Match as Match,
        content_words as content_words,
        judge as judge,
    )
    from probes.questions.questions import (
        Question as Question,
        describe_questions as describe_questions,
        hash_questions as hash_questions,
        load_questions as load_questions,
        sample_questions as sample_questions,
        split_questions as split_questions,
    )
    from probes.questions.standard_tasks import (
        StandardTask as StandardTask,
        TaskItem as TaskItem,
        load_task as load_task,
    )
    from probes.questions.task_answers import is_target as is_target, last_number as last_number
    from probes.questions.texts import load_texts as load_texts

__getattr__, __dir__, __all__ = hands_on(__name__, __file__)

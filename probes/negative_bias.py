"""Negative bias, the whole study: measure it, find the heads, test them, correct it, trace it to what the model knows.

The names that a user needs, in the order of a study. Sources: arXiv 2408.00137 (NAS, NASA) and arXiv 2511.10881
(parametric knowledge).
"""

from probes.alignment import Alignment, Settings, align
from probes.answers import Answers, answer, bias_measures
from probes.bias_report import BiasReport, measure
from probes.causality import causal_test
from probes.instructions import Instruction, build_prompts
from probes.knowledge import Knowledge, load_knowledge, sort_by_knowledge
from probes.negative_attention import negative_attention_score, rank_by_effect, rank_heads, score_prompts
from probes.questions import Question, load_questions, split_questions
from probes.scenarios import ALL as ALL_SCENARIOS
from probes.scenarios import scenarios
from probes.texts import load_texts

__all__ = [
    "ALL_SCENARIOS",
    "Alignment",
    "Answers",
    "BiasReport",
    "Instruction",
    "Knowledge",
    "Question",
    "Settings",
    "align",
    "answer",
    "bias_measures",
    "build_prompts",
    "causal_test",
    "load_knowledge",
    "load_questions",
    "load_texts",
    "measure",
    "negative_attention_score",
    "rank_by_effect",
    "rank_heads",
    "scenarios",
    "score_prompts",
    "sort_by_knowledge",
    "split_questions",
]

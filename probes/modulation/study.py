"""Heads that help turned up, heads that hurt turned down: does it help on questions that had no part in it?

After V-SEAM's modulation (arXiv 2509.14837), for text and vision models alike, with any scores of heads. What is tried
is chosen on validation questions, and what is chosen is read once on test questions, beside random heads with the same
factors, beside constants added to the answers' logits, and unmodulated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

import pandas as pd

from interp.door import public
from interp.edits import describe_model
from interp.fitting import require_shape
from interp.models import Model
from interp.records import Kept, hash_json, keeps_work
from probes.modulation.candidates import HeadScores, ModulationSettings
from probes.modulation.effects import ALL
from probes.modulation.readings import Item, ItemSet, width_of
from probes.modulation.result import FAMILIES, Modulation
from probes.modulation.work import ModulationWork, require_apart
from probes.questions import Instruction, Question, build_prompts, hash_questions, marks
from probes.studies import Study, mass_read

CITATIONS = [
    "V-SEAM: Visual Semantic Editing and Attention Modulating for Causal Interpretability of Vision-Language Models. "
    "arXiv:2509.14837 (factors clip(1 + λ D, 0, 2) on every head, λ = 1: its released code).",
    "Paired intervals: bootstrap over pictures or passages; of accuracies the wider of that and Bonett and Price "
    "(2012), J. Educ. Behav. Stat. 37. p: signs flipped (Fisher 1935), McNemar (1947), Psychometrika 12.",
]
CAVEATS = [
    "Validation chose the modulation, so its own numbers flatter it: read the test sets.",
    "A constant for each answer is the simple rival: where it gains as much, nothing shows that heads were needed.",
    "The first token of the answer is read, whatever the model goes on to say.",
    "The released code evaluates on questions that also made its scores; here these are refused.",
    "Families that were not chosen are read on the test sets too: the best of them there is a choice made on test.",
]


@public
@keeps_work
def modulate_items(
    model: Model,
    scores: HeadScores | Mapping[str, HeadScores],
    fit: ItemSet,
    validation: ItemSet,
    tests: Mapping[str, ItemSet],
    *,
    settings: ModulationSettings | None = None,
    title: str = "Modulation of heads",
    batch_size: int = 16,
    memory_mib: float = 1024.0,
    say: Callable[[str], None] | None = None,
    keep: Kept = None,
) -> Modulation:
    """Try modulations, choose one on ``validation``, and read it once on each of ``tests``.

    The constants of the rival are fitted on ``fit`` and ``validation`` together. Cost in passes: of validation 1 +
    candidates (20 to 32 by default), of each test set 1 + families + random draws (15), and the searches
    (:mod:`interp.fitting.factor_search`, :mod:`interp.fitting.factor_gradient`).

    Args:
        model: a loaded model.
        scores: one for all questions, or one for each level, whose questions then get a modulation of their own, chosen
            and fitted on them alone.
        fit: what factors are searched on; the questions that made the scores may be among these, and among no others.
        validation: what decides between the candidates.
        tests: sets that the choice is read on once, by their names.
        settings: what is tried, and how it is chosen.
        title: of the report.
        batch_size: questions in a pass and in a part file.
        memory_mib: for the states that a search keeps.
        say: gets a sentence before each long step.
        keep: the folder for the work as it goes, and then for the report and the edit (:class:`interp.Keep`).

    Returns:
        Candidates, the choice, and readings of the test sets; accuracies and probabilities in shares.

    Raises:
        ValueError: a question (or its picture, passage, twin) in more than one of fit, validation and test, or in
            validation or test and among those that made the scores, all listed; scores of another model; sets without
            questions; levels without scores.
    """
    settings = settings or ModulationSettings()
    by_scope = dict(scores) if isinstance(scores, Mapping) else {ALL: scores}
    sets = {"fit": fit, "validation": validation, **tests}
    _require(model, by_scope, sets, tests)
    study = _study_of(model, by_scope, sets, settings, title, batch_size, keep)
    if study.found is not None:
        return study.found
    mass = mass_read(model, validation.prompts, batch_size)
    work = ModulationWork(study, settings, width_of(*sets.values()), memory_mib, say)
    scopes = [work.scope(number, name, of, sets) for number, (name, of) in enumerate(by_scope.items())]
    tested = tuple(work.tested(number, name, given, scopes) for number, (name, given) in enumerate(tests.items()))
    provenance = study.provenance(
        method="factors on the outputs of heads, chosen on validation, read once on test; first token of the gold "
        "answer",
        scores={scope: dict(s.about) | {"name": s.name} for scope, s in by_scope.items()},
        families=FAMILIES,
        edited_model=describe_model(model),
        **mass,
    )
    found = Modulation(
        candidates=tuple(c for scope in scopes for c in scope.candidates),
        chosen={scope.name: scope.chosen for scope in scopes},
        validation=pd.concat([scope.validation for scope in scopes], ignore_index=True),
        tests=tested,
        offsets={scope.name: scope.offsets for scope in scopes},
        history=pd.DataFrame([row for scope in scopes for row in scope.history]),
        provenance=provenance,
    )
    return study.done(found)


def question_items(
    model: Model, questions: Sequence[Question], instruction: Instruction | None = None, forms: str = "in_context"
) -> ItemSet:
    """Yes/no questions as items: their domain is the level, their passage or pair the group."""
    instruction = instruction or Instruction()
    items = tuple(
        Item(
            id=q.id,
            gold=instruction.positive if q.answer == "Yes" else instruction.negative,
            options=(instruction.negative, instruction.positive),
            level=q.domain,
            kind="yes_no",
            group=q.group,
            yes=instruction.positive,
            marks=tuple(sorted("\n".join(mark) if isinstance(mark, tuple) else mark for mark in marks(q))),
        )
        for q in questions
    )
    described = {"sha256": hash_json([hash_questions(questions), asdict(instruction), forms]), "n": len(items)}
    return ItemSet(items, build_prompts(model, questions, instruction, forms=forms), described)


def _study_of(model, by_scope, sets, settings, title, batch_size, keep: Kept) -> Study:
    here = describe_model(model)["weights_sha256"]
    for scope, s in by_scope.items():
        there = s.about.get("weights_sha256")
        if there is not None and there != here:
            raise ValueError(
                f"the scores {s.name!r} ({scope}) are of weights {there[:12]}; {model.name!r} has {here[:12]}. Rank "
                "the heads of this model (an edited model is another one)."
            )
    data = {
        "sha256": hash_json({name: given.described.get("sha256", "") for name, given in sets.items()}),
        "n": sum(map(len, sets.values())),
        "sets": {name: given.described | {"n": len(given)} for name, given in sets.items()},
    }
    of_scores = {
        scope: hash_json([table.tolist() for table in (s.signed, s.positive, s.negative)])
        for scope, s in by_scope.items()
    }
    described = {**asdict(settings), "scores_sha256": of_scores}
    return Study(
        title,
        model,
        (prompt for given in sets.values() for prompt in given.prompts),
        data=data,
        settings=described,
        batch_size=batch_size,
        keep=keep,
        citation=CITATIONS,
        caveats=CAVEATS,
    )


def _require(model: Model, by_scope, sets: Mapping[str, ItemSet], tests: Mapping[str, ItemSet]) -> None:
    if not tests or not by_scope:
        raise ValueError("no test set, or no scores, were given; expected one at least.")
    if len(sets) != 2 + len(tests):
        raise ValueError("a test set is named 'fit' or 'validation'; give it another name.")
    if empty := [name for name, given in sets.items() if not len(given)]:
        raise ValueError(f"the set {empty[0]!r} has no questions; give at least one.")
    for scores in by_scope.values():
        for table in (scores.signed, scores.positive, scores.negative):
            require_shape(model, table)
    if ALL not in by_scope:
        for name, given in sets.items():
            if unknown := sorted(set(given.levels) - set(by_scope)):
                raise ValueError(
                    f"the set {name!r} has questions of level {unknown[0]!r}; scores are of {list(by_scope)}."
                )
            if missing := [level for level in by_scope if level not in given.levels]:
                raise ValueError(f"the set {name!r} has no questions of level {missing[0]!r}, which has scores.")
    elif len(by_scope) > 1:
        raise ValueError(
            f"scores of {list(by_scope)} were given; expected one for all questions, or one for each level."
        )
    require_apart(sets, {mark for scores in by_scope.values() for mark in scores.made_on})

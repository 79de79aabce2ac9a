"""The commands of a study of negative bias beyond ranking: measure it, test heads, correct it, ask what is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from probes.cli.declaring import Option, changed, taken
from probes.cli.estimate import Cost
from probes.cli.options import Data, ModelOptions, QuestionData, require_files, say
from probes.cli.rank import INSTRUCTION, Wording, passes_of_sets
from probes.cli.study import (
    Report,
    Shown,
    Study,
    WholeReport,
    print_result,
    require_folder,
    require_place_for_export,
)
from probes.cli.vocabulary import FILES, VOCABULARY

if TYPE_CHECKING:
    from probes.questions import Question

NAS_PASSES = 4  # a ranking by NAS, and what is read beside it
EDITS = Option("What is done to them; may be repeated.", flag="--edit")
RANDOM = changed(VOCABULARY["n_random"], least=1, shown="20 at the last token, 3 at every token")


def measure_negative_bias(
    keep: Report,
    model: ModelOptions,
    data: QuestionData,
    options: Annotated[
        dict,
        taken(
            "probes.negative_bias.measures:measure",
            "forms batch_size",
            generate_tokens=Option("Also read a reply of N tokens; 0: none.", flag="--max-new-tokens", least=0),
        ),
    ],
    instruction: Wording = INSTRUCTION,
    as_json: bool = False,
) -> None:
    """Does the model say No too often? Precision, recall, negative bias, calibration and AUROC.

    By the first token of the answer and by generated text.
    """
    from probes import negative_bias

    study = Study(keep, model, data)
    asked = negative_bias.Instruction(instruction)
    questions = _both_answers(data.questions(), data.data)
    report = study.run(
        lambda loaded: negative_bias.measure(loaded, questions, asked, **options, keep=study.keep()),
        f"{len(questions)} questions from {data.data}",
        cost=Cost(len(questions), 2, new_tokens=options["generate_tokens"]),
    )
    table = report.to_findings().tables["Measures"]
    table["measure"] = table["measure"].str.replace("_", " ")
    channels = [c for c in table if f"{c}_low" in table]
    columns = {"measure": "measure"} | {c: c for c in channels}
    shown = [Shown("measures", table, columns, f"{len(questions)} questions")]
    print_result(report.statement(), shown, [study.out], as_json)


def negative_heads(
    keep: Report,
    model: ModelOptions,
    data: QuestionData,
    options: Annotated[
        dict,
        taken(
            "probes.negative_bias.causality:causal_test",
            "forms sets batch_size ks",
            edits=EDITS,
            n_random=RANDOM,
        ),
    ],
    ranking: Annotated[
        Path | None,
        Option("Folder of a saved NAS ranking; the default ranks on one half and tests on the other.", metavar="DIR"),
    ] = None,
    positions: Annotated[
        Literal["answer", "all", "both"], Option("Where: the last token, every token, or both.")
    ] = "answer",
    instruction: Wording = INSTRUCTION,
    as_json: bool = False,
) -> None:
    """Are the top heads causes? Edit the first k together: does the bias change more than with random heads?

    With --ranking, questions that made it are left out; --limit counts the rest.
    Without it, half of the questions make a ranking, which is kept in OUT/ranking.
    """
    from probes import negative_bias
    from probes.questions import apart_from, sample_questions, split_questions

    study = Study(keep, model, data)
    asked = negative_bias.Instruction(instruction)
    saved, to_rank = None, []
    if ranking is not None:
        require_folder(ranking, "the folder of a saved ranking")
        from interp import load_ranking

        saved = load_ranking(ranking)
        every = data.questions(sampled=False)
        questions = apart_from(every, saved.example_ids)
        if not questions:
            raise ValueError(
                f"all {len(every)} questions of {data.data} made the ranking {ranking}, or stand beside one that did. "
                "Heads chosen on a question look better on it: give other questions, or rank on fewer (--limit)."
            )
        questions = questions if data.limit is None else sample_questions(questions, data.limit, data.seed)
    else:
        halves = split_questions(data.questions(), {"ranking": 0.5, "test": 0.5}, data.seed)
        to_rank, questions = halves["ranking"], halves["test"]
    _both_answers(questions, data.data)
    ranked_by = {"instruction": asked} | {name: options[name] for name in ("forms", "batch_size")}
    tested_by = {"instruction": asked, "seed": data.seed} | options
    tested_by |= {f"{name}_all": options[name] for name in ("ks", "n_random") if name in options}
    tested_by["positions"] = ("answer", "all") if positions == "both" else positions

    def work(loaded):
        ranked = saved
        if ranked is None:
            n_heads = loaded.n_layers * loaded.n_heads
            if (largest := max(options.get("ks", [20]))) > n_heads:  # before the ranking is made
                raise typer.BadParameter(f"{largest}; {loaded.name} has {n_heads} heads", param_hint="--k")
            made = study.keep(study.out / "ranking", half="ranking")
            ranked = negative_bias.rank_heads(loaded, to_rank, **ranked_by, keep=made)
        origin = {} if saved else {"half": "test"}
        return negative_bias.causal_test(loaded, questions, ranked, **tested_by, keep=study.keep(**origin))

    folders = [study.out] if saved else [study.out, study.out / "ranking"]
    made_by = f"{len(saved.example_ids)} made the ranking" if saved else f"{len(to_rank)} others to rank by"

    def cost(loaded):
        passes = 2 + (0 if saved else NAS_PASSES) + (0 if positions == "answer" else 90)
        return Cost(len(questions), passes + passes_of_sets(loaded, len(questions), options["sets"]), scans=5)

    asked_of = f"{len(questions)} questions from {data.data}, {made_by}"
    result = study.run(work, asked_of, folders, cost=cost)
    frame = result.to_frame()
    top = frame[frame["set"] == "top"]
    n_answers = len(top.drop_duplicates(["by", "positions"]))
    changes = {"delta_nb": "negative bias", "delta_nb_p_random": "p, random sets", "delta_accuracy": "accuracy"}
    columns = {name: name for name in ("positions", "edit", "k")} | changes
    by_nas = top[top["by"] == "nas"]
    shown = [Shown("top_heads", by_nas, columns, "Change when the top k heads by NAS are edited together")]
    said = [*result.statement()[:n_answers], *result.provenance.get("sets", {}).get("said", [])]
    print_result(said, shown, folders, as_json)


def order_swap(
    keep: Report,
    model: ModelOptions,
    data: QuestionData,
    options: Annotated[
        dict,
        taken(
            "probes.negative_bias.order_swap_study:order_swap",
            "query_span batch_size",
            n_effects=Option("Questions, of the first, whose effects of heads are measured too; 0: none.", least=0),
        ),
    ],
    as_json: bool = False,
) -> None:
    """Does a ranking by NAS rest on the words, or on the order in which they are named?

    Three wordings of the instruction, four pairs of options, both orders: which of the first ten heads keep
    their sign, and how much of the variance of scores is of the order, of the wording, of the questions.
    """
    from probes import negative_bias

    study = Study(keep, model, data)
    questions = data.questions()
    found = study.run(
        lambda loaded: negative_bias.order_swap(loaded, questions, **options, keep=study.keep()),
        f"{len(questions)} questions from {data.data}",
        cost=Cost(len(questions), 24, scans=24 * min(1.0, options.get("n_effects", 20) / len(questions))),
    )
    frame = found.to_frame()
    columns = {name: name.replace("_", " ") for name in ("options", "wording", "keep_sign", "turn", "stay")}
    print_result(
        found.statement(), [Shown("instructions", frame, columns, "Of the first ten heads")], [study.out], as_json
    )


@dataclass(frozen=True)
class DividedQuestions(Data):
    """Yes/no questions of several sources, to train on, to validate with and to test on."""

    data: Annotated[list[str] | None, Option(f"{FILES}; may be repeated.", shown="builtin")] = None
    test_data: Annotated[list[str] | None, Option("Further questions to test on only; may be repeated.")] = None
    column: list[str] | None = None
    format: str | None = None
    limit: Annotated[
        int | None,
        Option("Most training questions; N/3 validate (20 at least), N/2 are in each test.", least=20, metavar="N"),
    ] = None
    seed: int = 0

    def __post_init__(self) -> None:
        require_files(self.reading, self.sources)

    @property
    def sources(self) -> list[str]:
        return self.data or ["builtin"]


def nasa(
    keep: WholeReport,
    model: ModelOptions,
    data: DividedQuestions,
    options: Annotated[
        dict,
        taken(
            "probes.negative_bias.corrections:Settings",
            "steps learning_rate",
            k=Option("Tune at most so many heads, those of highest NAS.", least=1),
            batch_size=Option("Questions in a step, half of them Yes.", least=2),
            key_group=Option("Tune also the key rows that a head shares with its siblings."),
        ),
    ],
    instruction: Wording = INSTRUCTION,
    rivals: Annotated[bool, Option("Fit the rivals too: random heads, LoRA, scaled heads, a constant offset.")] = True,
    export: Path | None = None,
    as_json: bool = False,
) -> None:
    """Tune the negative heads one by one (NASA, arXiv 2408.00137), beside rivals; test on held-out questions.

    The questions of all --data are split by --seed: about half to train on,
    a fifth to validate, and the rest kept back to test on.
    The edit is saved in OUT/edit, beside the report.
    """
    from interp.records import prepare_directory
    from probes.questions import Instruction, divide, require_probing_set

    study = Study(keep, model, data)
    out = study.out
    asked = Instruction(instruction)
    sets = divide(data.sources, data.test_data or (), limit=data.limit, seed=data.seed, reading=data.reading)
    for name, questions in (("training", sets.training), ("validation", sets.validation)):
        require_probing_set(name, questions)
    for name, questions in sets.tests.items():
        _both_answers(questions, f"the test set {name!r}")
    if export is not None:
        require_place_for_export(export, out, ("edit", "parts"))

    from probes import negative_bias
    from probes.negative_bias.alignment_result import HELD_OUT
    from probes.negative_bias.nasa import RIVALS

    def work(loaded):

        if export is not None:
            weights = loaded.hf.state_dict().values()
            was_there = export.exists()
            prepare_directory(export, need_mib=sum(t.numel() * t.element_size() for t in weights) / 2**20)
            if not was_there:  # only tried: a run that fails leaves none
                export.rmdir()
        alignment = negative_bias.align(
            loaded,
            sets.training,
            sets.validation,
            instruction=asked,
            settings=negative_bias.Settings(**options, seed=data.seed),
            rivals=RIVALS if rivals else (),
            tests=sets.tests,
            keep=study.keep(test={name: len(questions) for name, questions in sets.tests.items()}),
        )
        if export is not None:
            alignment.edit.export(loaded, export)
        return alignment

    repeated = f", {sets.n_repeated} repeated ones left out" if sets.n_repeated else ""
    n_test = sum(map(len, sets.tests.values()))
    counts = f"{len(sets.training)} questions to train on, {len(sets.validation)} to validate, {n_test} to test"
    looks = options["k"] * options["steps"] / 3  # at the validation questions
    trained = 3 * options["k"] * options["steps"] * options["batch_size"]  # a backward pass costs two
    passes = (1 + 3 * rivals) * (trained + looks * len(sets.validation)) + 5 * n_test + NAS_PASSES * len(sets.training)
    alignment = study.run(work, counts + repeated, [out], export, cost=Cost(1, passes))
    shown = {"precision_recall_gap": "precision - recall", "accuracy": "accuracy", "auroc": "AUROC"}
    columns = {"set": "set", "method": "method", "n": "n"} | shown
    found = alignment.tests[HELD_OUT]
    tables = [Shown("held_out", found, columns, "Questions that no method saw, with 95 % intervals")]
    print_result(alignment.statement(), tables, [out], as_json)
    if export is not None:
        say(f"corrected model: {export}")


def knowledge(
    keep: Report,
    model: ModelOptions,
    data: QuestionData,
    sampling: Annotated[
        dict,
        taken(
            "probes.negative_bias.knowledge:sort_by_knowledge",
            "max_new_tokens batch_size",
            n_samples=Option("Sampled replies to each open question.", flag="--samples", least=1),
            temperature=Option("At which they are sampled."),
        ),
    ],
    asking: Annotated[
        dict,
        taken(
            "probes.negative_bias.scenario_study:scenarios",
            "",
            which=Option("Only these scenarios; may be repeated; 'plain' is needed.", shown="all"),
            n_reasoning_tokens=Option("Length of a chain of thought.", flag="--reasoning-tokens", least=1),
        ),
    ],
    scenarios: Annotated[bool, Option("Then measure the bias under every scenario.")] = True,
    as_json: bool = False,
) -> None:
    """What does the model know, and does its bias follow from that or from the form of a question?

    The open form of each question, asked several times, sorts it into correct,
    incorrect or insufficient knowledge (report in OUT/knowledge).
    Then each is put in every scenario of arXiv 2511.10881 (OUT/scenarios).
    """
    from probes.negative_bias.scenario_forms import ALL

    study = Study(keep, model, data)
    out = study.out
    asking = {"which": list(ALL)} | asking
    given = data.questions()
    questions = _both_answers(
        [q for q in given if q.open_question.strip() and q.open_answer.strip()] or given, data.data
    )
    if scenarios:
        _require_scenarios(asking["which"], questions, data.seed)

    def work(loaded):
        from probes import negative_bias

        sampled = sampling | {"seed": data.seed}
        known = negative_bias.sort_by_knowledge(loaded, questions, **sampled, keep=study.keep(out / "knowledge"))
        if not scenarios:
            return known, None
        asked = asking | {"seed": data.seed, "batch_size": sampling["batch_size"]}
        return known, negative_bias.scenarios(loaded, questions, known, **asked, keep=study.keep(out / "scenarios"))

    folders = [out / "knowledge", out / "scenarios"][: 1 + scenarios]
    left_out = f" ({len(given) - len(questions)} without an open form left out)" if len(questions) < len(given) else ""
    new_tokens = (1 + sampling["n_samples"]) * sampling["max_new_tokens"]
    passes = 2  # over an open form: the greedy reply's, and the one that its samples share
    if scenarios:
        passes += len(asking["which"])
        new_tokens += asking["n_reasoning_tokens"] if "chain_of_thought" in asking["which"] else 0
    cost = Cost(len(questions), passes, new_tokens=new_tokens)
    asked_of = f"{len(questions)} questions from {data.data}{left_out}"
    known, by_scenario = study.run(work, asked_of, folders, cost=cost)
    counts = known.counts()
    tables = [Shown("knowledge", counts, {name: name for name in counts}, "What the model knows, in questions")]
    if by_scenario is not None and len(claims := by_scenario.claims()):
        shown = {
            "claim": "claim",
            "contrast": "contrast",
            "n": "n",
            "negative_bias": "change of NB",
            "verdict": "verdict",
        }
        tables.append(Shown("claims", claims, shown, "The claims of arXiv 2511.10881"))
    said = [*known.statement(), *(by_scenario.statement() if by_scenario is not None else [])]
    print_result(said, tables, folders, as_json)


def _both_answers(questions: Sequence[Question], source: str) -> Sequence[Question]:
    """The questions, if some are to be answered with Yes and some with No: bias is a difference between the two."""
    if len(answers := {q.answer for q in questions}) < 2:
        raise ValueError(
            f"all {len(questions)} questions from {source} have the gold answer {answers.pop()}; expected both, since "
            "bias is a difference between the two. Add questions of the other."
        )
    return questions


def _require_scenarios(which: Sequence[str], questions: Sequence[Question], seed: int) -> None:
    """What the study of scenarios would refuse after the questions were sorted, refused now."""
    from probes.negative_bias.scenario_forms import irrelevant_passages, require_scenarios

    require_scenarios(which, questions)
    if "irrelevant_passage" in which:
        irrelevant_passages(questions, seed)

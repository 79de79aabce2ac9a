"""The commands on heads of vision-language models: rank them on visual questions, compare the levels of questions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from probes.cli.declaring import Option, taken
from probes.cli.options import VisualData, VisualModel, say
from probes.cli.study import Report, Shown, Study, print_result, require_folder

if TYPE_CHECKING:
    from interp.models import Model
    from interp.records import Keep
    from interp.scans import Positions
    from probes.visual_semantics.heads import VisualHeads
    from probes.visual_semantics.questions import VisualExamples
    from probes.visual_semantics.routes import VisualRoutes

WHERE = Option(
    "Where heads are ablated: every token, after the picture, the last.", kind=Literal["all", "text", "answer"]
)


def visual_heads(
    keep: Report,
    model: VisualModel,
    data: VisualData,
    options: Annotated[
        dict,
        taken(
            "probes.visual_semantics.heads.heads:rank_visual_heads",
            "ablation batch_size memory_mib",
            positions=WHERE,
            scores=Option(
                "Wanted scores; may be repeated.",
                flag="--score",
                kind=list[Literal["s_plus", "s_minus", "signed_drop"]],
            ),
        ),
    ],
    rankings: Annotated[bool, Option("Also a report of each score and level, in OUT/rankings (5 MB each).")] = False,
    routes: Annotated[
        int, Option("Also what so many heads of the largest effect read, picture or words, in OUT/routes.", metavar="N")
    ] = 0,
    as_json: bool = False,
) -> None:
    """S+, S- and D of every head (V-SEAM, arXiv 2509.14837), with floors, intervals and p.

    One pass for each head and question at --positions all; it says how long that
    takes before it starts, and a killed run goes on with --resume.
    """
    study = Study(keep, model, data)
    source = data.read()
    from probes.visual_semantics.heads import NAMES, first_heads, rank_visual_heads

    if routes < 0:
        raise ValueError(f"--routes {routes}; expected 0 (none) or more heads.")
    read = []

    def rank(loaded: Model) -> VisualHeads:
        examples, kept = source.examples(loaded, data.instruction, data.cases), study.keep()
        heads = rank_visual_heads(loaded, examples, say=say, **options, keep=replace(kept, origin=source.origin()))
        if routes:
            place = replace(kept, out=study.out / "routes")
            read.append(_read_by(loaded, examples, heads, routes, options["positions"], place))
        return heads

    heads = study.run(rank, str(source))
    out, folders = study.out, [study.out, *(study.out / "routes" for _ in read)]
    if rankings:
        for name in heads.provenance["settings"]["scores"]:
            for of_level in heads.levels:
                if heads.chosen(of_level, score=name).any():
                    folder = out / "rankings" / f"{of_level or 'all'}-{name.replace('_', '-')}"
                    heads.ranking(name, of_level).save(folder, overwrite=study.overwrite)
                    folders.append(folder)
    found = heads.to_findings()
    columns = {"level": "level", "kind": "kind", "n": "n", "n_correct": "correct", "accuracy": "accuracy"}
    columns |= {"gold_yes": "gold Yes", "says_yes": "says Yes", "flag": "few"}
    shown = [Shown("counts", found.tables["Questions by level and kind"], columns, "Unedited model")]
    of_heads = {"level": "level", "label": "head", "score": "score", "floor": "floor", "mean_change": "mean change"}
    of_heads |= {"q": "q", "yes_push": "yes push"}
    for name in heads.provenance["settings"]["scores"]:
        if (frame := found.tables.get(first_heads(name))) is None:
            continue
        first = frame.groupby("level", sort=False).head(5)
        thousandths = {c: 1000 * first[c] for c in first if c.startswith(("score", "floor", "mean_change"))}
        columns = {c: text for c, text in of_heads.items() if c in frame}
        title = f"{NAMES[name]}: the first 5 heads, in thousandths of probability"
        shown.append(Shown(name, frame if as_json else first.assign(**thousandths), columns, title))
    said = list(found.statement)
    for of_heads_read in read:
        report = of_heads_read.to_findings()
        said += report.statement
        counts = report.tables["Counts"]
        shown.append(Shown("routes", counts, {c: c for c in counts}, "What the first heads read"))
    print_result(said, shown, folders, as_json)


def _read_by(
    loaded: Model, examples: VisualExamples, heads: VisualHeads, n: int, positions: Positions, keep: Keep
) -> VisualRoutes:
    """What the ``n`` heads of the largest mean effect on all questions read."""
    from probes.visual_semantics.routes import visual_routes

    first = heads.top("signed_drop", min(n, heads.n_layers * heads.n_heads), by="size")
    return visual_routes(loaded, examples, first, positions=positions, keep=keep)


def conflict_heads(
    keep: Report,
    model: VisualModel,
    data: VisualData,
    options: Annotated[
        dict,
        taken(
            "probes.visual_semantics.conflict.conflict:rank_conflict_heads",
            "batch_size memory_mib",
            positions=WHERE,
            ablation=Option("What replaces a head's output.", kind=Literal["mean_of_others", "zero"]),
        ),
    ],
    wording: Annotated[
        str, Option("The hint, with {answer} where a wrong option is put.")
    ] = "I think the answer is {answer}.",
    as_json: bool = False,
) -> None:
    """Which heads follow the words where a hint and the picture disagree?

    Each question is asked after a wrong hint, after a right one and without any. OUT/ranking is a ranking
    for `interp modulate`, which turns the first heads down.
    """
    study = Study(keep, model, data)
    source = data.read()
    from interp.statistics import FEWEST
    from probes.visual_semantics.conflict import rank_conflict_heads
    from probes.visual_semantics.questions import conflicts

    found = study.run(
        lambda loaded: rank_conflict_heads(
            loaded,
            conflicts(source.examples(loaded, data.instruction, data.cases), wording, seed=data.seed),
            **options,
            keep=replace(study.keep(), origin=source.origin()),
        ),
        f"{source}, each with a wrong hint, a right one and none",
    )
    ranking, counts = found.ranking(), found.counts()
    ranking.save(study.out / "ranking", overwrite=study.overwrite or study.kept.resume)
    shown = [Shown("answers", counts, {c: c.replace("_", " ") for c in counts}, "Answers with and without a hint")]
    if len(set(found.pictures)) >= FEWEST:
        columns = {"label": "head", "follows_hint": "follows", "plain_push": "without a hint", "q": "q"}
        shown.append(Shown("top_heads", found.heads().head(10), columns, "Heads that follow"))
    print_result(found.statement(), shown, [study.out, study.out / "ranking"], as_json)


def visual_levels(
    keep: Report,
    model: VisualModel,
    data: VisualData,
    options: Annotated[
        dict,
        taken(
            "probes.visual_semantics.heads.levels:study_levels",
            "k n_random batch_size memory_mib",
            positions=WHERE,
            by=Option(
                "Choose heads by the score, or by the mean change behind it.",
                flag="--choose-by",
                kind=Literal["score", "mean_change"],
            ),
            edits=Option("What replaces their outputs; may be repeated.", flag="--ablation"),
        ),
    ],
    ranking: Annotated[Path, Option("Folder of `interp rank visual-heads`.", metavar="DIR")],
    as_json: bool = False,
) -> None:
    """Are positive heads a level's own, and negative ones everybody's? V-SEAM's claims, one by one.

    Overlaps of the ranking's top heads within and between levels; then each level's heads are
    ablated together on every level's questions, which must be others than the ranking's.
    """
    study = Study(keep, model, data)
    require_folder(ranking, "a report of `interp rank visual-heads`")
    source = data.read()
    from interp import load_result
    from probes.visual_semantics.heads import VisualHeads, study_levels

    heads = load_result(ranking)
    if not isinstance(heads, VisualHeads):
        raise ValueError(
            f"{ranking} holds another study ({type(heads).__name__}); it is not a ranking of visual heads. Make one: "
            "`interp rank visual-heads`."
        )
    found = study.run(
        lambda loaded: study_levels(
            loaded,
            heads,
            source.examples(loaded, data.instruction, data.cases),
            seed=data.seed,
            say=say,
            **options,
            keep=replace(study.keep(), origin=source.origin()),
        ),
        f"{source}; {len(heads.asked)} others made the ranking",
    )
    report = found.to_findings()
    verdicts = report.tables["Verdicts"]
    shown = [
        Shown("verdicts", verdicts, {c: c for c in verdicts}, "Claims, and how many ways to ask have which verdict")
    ]
    if as_json:
        shown.append(Shown("claims", report.tables["Claims"], {}, "Claims"))
    print_result(report.statement, shown, [study.out], as_json)

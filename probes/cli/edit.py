"""The commands on saved edits: look at one, try it, see what it costs, write it into a model, put two side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from probes.cli.declaring import Option
from probes.cli.estimate import Cost, say_how_long
from probes.cli.options import ModelOptions, QuestionData, say_system, system_of
from probes.cli.study import Shown, print_result, require_folder

if TYPE_CHECKING:
    from interp.edits import ModelEdit
    from interp.models import Model
    from probes.questions import StandardTask

Folder = Annotated[Path, Option("Folder of a saved edit (edit.json).", is_argument=True)]
OfModel = Annotated[
    str | None, Option("Name, id or directory of the model.", shown="the one that the edit was made for")
]
OfDtype = Annotated[str | None, Option("As in `interp models`.", shown="the one that the edit is for")]


def show(folder: Folder, as_json: bool = False) -> None:
    """What a saved edit changes, which weights it is for, and where it came from."""
    require_folder(folder, "a saved edit", "edit.json")
    import pandas as pd

    from interp import load_edit

    found = load_edit(folder)
    parts = [{"part": label, "value": _value(t), "numbers": t.numel()} for label, t in found.parts().items()]
    told = [{"what": name, "is": _text(value)} for name, value in {**found.model, **found.origins()}.items()]
    tables = [
        Shown(
            "parts",
            pd.DataFrame(parts, columns=["part", "value", "numbers"]),
            {"part": "part", "value": "value, or norm", "numbers": "numbers"},
            "What it changes",
        ),
        Shown("provenance", pd.DataFrame(told, columns=["what", "is"]), {"what": "", "is": ""}, "Where it came from"),
    ]
    print_result([f"{type(found).__name__}. {found.summary()}"], tables, as_json=as_json)


def apply(
    folder: Folder,
    prompt: Annotated[list[str], Option("What the model is asked; repeated: several.")],
    model: OfModel = None,
    system: str | None = None,
    no_system: bool = False,
    template: list[str] | None = None,
    no_chat: bool = False,
    max_new_tokens: int = 60,
    dtype: OfDtype = None,
    device: str | None = None,
    as_json: bool = False,
) -> None:
    """The model's replies without the edit and with it, greedy."""
    require_folder(folder, "a saved edit", "edit.json")
    import pandas as pd

    from interp import load_edit
    from interp.reading import generate

    found = load_edit(folder)
    loaded = _model_of(found, model, dtype, device, template, no_chat)
    chat = loaded.chat and loaded.chat_template is not None
    system = system_of(system, no_system)
    if system is None and chat:
        say_system(loaded)
    text_only = loaded.has_vision
    prompts = [loaded.prompt(text, system=system, chat=chat, text_only=text_only) for text in prompt]
    say_how_long(loaded, Cost(len(prompts), 2, new_tokens=2 * max_new_tokens, once=0))
    before = generate(loaded, prompts, max_new_tokens)
    with found.apply(loaded, prompts):
        after = generate(loaded, prompts, max_new_tokens)
    rows = pd.DataFrame(
        [{"prompt": p, "before": a, "after": b} for p, (a,), (b,) in zip(prompt, before, after, strict=True)]
    )
    n = int((rows["before"] != rows["after"]).sum())
    columns = {"prompt": "prompt", "before": "without the edit", "after": "with it"}
    said = [found.summary(), f"{n} of {len(rows)} replies differ."]
    if as_json:
        print_result(said, [Shown("replies", rows, columns, "Replies")], as_json=True)
        return
    console = Console(soft_wrap=True)
    for row in rows.to_dict("records"):
        for name, heading in columns.items():
            console.print(f"{heading}: {row[name]}", markup=False, emoji=False, highlight=False)
        console.print()
    print_result(said, [])


def fold(
    folder: Folder,
    out: Annotated[Path, Option("Folder for the edited model; it must not exist, or be empty.")],
    model: OfModel = None,
    measures: Annotated[
        Path | None, Option("A .csv table of what the edit does, for the model card.", shown="none")
    ] = None,
    dtype: OfDtype = None,
    device: str | None = None,
    as_json: bool = False,
) -> None:
    """Write the model with the edit in its weights, for plain transformers, checked against the hooked model."""
    require_folder(folder, "a saved edit", "edit.json")
    import pandas as pd

    from interp import load_edit
    from interp.records import holding
    from probes.rows import read_rows

    found = load_edit(folder)
    table = None if measures is None else pd.DataFrame([row.fields for row in read_rows(measures)])
    with holding(out, as_whole=True):
        if out.exists() and (not out.is_dir() or any(out.iterdir())):  # before the model is loaded
            raise FileExistsError(f"{out} is not an empty directory. Give another --out, or delete it.")
        found.export(_model_of(found, model, dtype, device), out, measures=table)
    written = f"Written to {out}, and read again by plain transformers: its logits are those of the hooked model."
    print_result([found.summary(), written, f"What was checked: {out / 'README.md'}"], [], as_json=as_json)


def cost(
    folder: Folder,
    data: QuestionData,
    model: OfModel = None,
    task: Annotated[
        list[str] | None,
        Option(
            "A file of a standard task, asked in its own form: of the shape of GSM8K, MMLU or BIG-Bench Hard; "
            "gsm8k:FILE, mmlu:FILE or bbh:FILE says which. May be repeated.",
            metavar="FILE",
        ),
    ] = None,
    reply_tokens: Annotated[
        int | None,
        Option(
            "The most tokens of a reply to an item of --task.", least=1, shown="256 for GSM8K, 64 for BIG-Bench Hard"
        ),
    ] = None,
    texts: Annotated[str, Option("Ordinary text: 'builtin', or a file with a column text.")] = "builtin",
    n_texts: Annotated[int, Option("Use the first N texts.", flag="--texts-limit", least=1, metavar="N")] = 20,
    n_open: Annotated[
        int, Option("Ask so many questions of --data in their open form too, where they have one.", least=0)
    ] = 20,
    dtype: OfDtype = None,
    device: str | None = None,
    as_json: bool = False,
) -> None:
    """What a saved edit costs: ordinary text, yes/no questions, short answers, standard tasks, before and after."""
    require_folder(folder, "a saved edit", "edit.json")
    from interp import load_edit
    from probes.negative_bias import edit_cost, load_texts
    from probes.negative_bias.ability import cost_measures, cost_statement

    found = load_edit(folder)
    tasks = _tasks(task or [], data, reply_tokens)
    asked = data.questions()
    passages = [t.text for t in load_texts(texts, n_texts)]
    by_subject = {q.subject or q.id: q for q in asked if q.open_question}  # twins share one
    openly = list(by_subject.values())[:n_open]
    loaded = _model_of(found, model, dtype, device)
    n = len(asked) + len(passages) + len(openly) + sum(len(t.items) for t in tasks)
    written = 24 * len(openly) + sum(t.reply_tokens * len(t.items) for t in tasks)
    say_how_long(loaded, Cost(n, 2, new_tokens=2 * written / n, once=0))
    table = edit_cost(loaded, {"edited": found}, passages, asked, openly, tasks=tasks)
    columns = {"measure": "", "n": "n", "guessing": "by guessing", "before": "before", "after": "after"}
    shown = [Shown("measures", cost_measures(table), columns | {"change": "change"}, "What it costs")]
    if as_json:
        shown.append(Shown("cost", table, {}, ""))
    print_result([found.summary(), *cost_statement(table)], shown, as_json=as_json)


def diff(
    a: Annotated[Path, Option("Folder of a saved edit.", is_argument=True)],
    b: Annotated[Path, Option("Folder of another.", is_argument=True)],
    as_json: bool = False,
) -> None:
    """Which heads, layers and directions two saved edits share, and how far apart these are."""
    for folder in (a, b):
        require_folder(folder, "a saved edit", "edit.json")
    from interp import load_edit
    from interp.edits import compare_edits

    first, second = load_edit(a), load_edit(b)
    compared = compare_edits(first, second)
    counts = compared["verdict"].value_counts()
    verdicts = ", ".join(f"{counts[v]} {v}" for v in ("same", "differs", "only in A", "only in B") if v in counts)
    said = [f"A: {first.summary()}", f"B: {second.summary()}", f"Of {len(compared)} parts: {verdicts or 'none'}."]
    ours, theirs = first.model.get("weights_sha256"), second.model.get("weights_sha256")
    if ours and theirs and ours != theirs:
        names = " and ".join(
            f"{e.model.get('name')!r} (weights {e.model['weights_sha256'][:12]})" for e in (first, second)
        )
        said.append(f"They are for different weights: {names}.")
    columns = {"part": "part", "verdict": "verdict", "a": "A", "b": "B", "relative_difference": "|A - B| / |A|"}
    print_result(said, [Shown("parts", compared, columns | {"cosine": "cosine"}, "Part by part")], as_json=as_json)


def _tasks(named: list[str], data: QuestionData, reply_tokens: int | None) -> list[StandardTask]:
    from probes.questions import load_task
    from probes.questions.standard_tasks import FORMATS

    tasks = []
    for source in named:
        shape, _, file = source.partition(":")
        shape, file = (shape, file) if shape in FORMATS and file else (None, source)
        given = reply_tokens if shape != "mmlu" else None
        tasks.append(load_task(file, format=shape, limit=data.limit, seed=data.seed, max_new_tokens=given))
    return tasks


def _model_of(
    found: ModelEdit,
    model: str | None,
    dtype: str | None,
    device: str | None,
    template: list[str] | None = None,
    no_chat: bool = False,
) -> Model:
    name = model or found.model.get("name")
    if not name:
        raise typer.BadParameter("this edit names no model; say which", param_hint="--model")
    asked = ModelOptions(name, dtype or found.model.get("dtype", "float32"), device, template, no_chat)
    try:
        asked.require_known()
        asked.say_download()
        return asked.load()
    except (ValueError, OSError) as error:
        if model is not None:
            raise
        raise ValueError(
            f"{error} The edit is for a model called {name!r}: name its folder or id with --model."
        ) from None


def _value(tensor: Any) -> float:
    return float(tensor) if tensor.numel() == 1 else float(tensor.double().norm())


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)

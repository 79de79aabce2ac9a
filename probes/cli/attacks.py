"""The commands that make a model comply with what it refuses: jailbreaks, suffixes from a search, fine-tuning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from probes.cli.declaring import Option, taken
from probes.cli.estimate import Cost
from probes.cli.harmfulness import observed_cost
from probes.cli.options import ChatModel, say
from probes.cli.requests import EarlierRequests, RequestData, only_kind
from probes.cli.study import ReportWithReplies, Shown, Study, WholeReportWithReplies, print_result, with_caveats
from probes.cli.vocabulary import FILES

if TYPE_CHECKING:
    from interp.models import Model
    from probes.harmfulness.attacks import FineTuningStudy, Jailbreak, JailbreakStudy


def jailbreaks(
    keep: ReportWithReplies,
    model: ChatModel,
    data: EarlierRequests,
    choosing: Annotated[
        dict,
        taken(
            "probes.harmfulness.attacks.texts:load_jailbreaks",
            "",
            source=Option(f"Jailbreaks: {FILES}.", flag="--jailbreaks"),
            family=Option("Only jailbreaks of this family.", shown="all"),
        ),
    ],
    options: Annotated[
        dict,
        taken(
            "probes.harmfulness.attacks.jailbreaks:attack",
            "max_new_tokens batch_size",
            n_per=Option("Jailbreaks of each family that a request is put into.", flag="--per-family", least=1),
        ),
    ],
    as_json: bool = False,
) -> None:
    """Did a jailbreak lower the urge to refuse, or the belief that the request is harmful (arXiv 2507.11878)?

    Refused harmful requests, and harmless ones as a control, are asked again inside jailbreaks.
    """
    from probes.harmfulness.attacks.texts import load_jailbreaks

    asking = data.read(model.template)
    texts = load_jailbreaks(**choosing)
    study = Study(keep, model, data, asking.says_system)
    folders = asking.folders(study)

    def work(loaded: Model) -> JailbreakStudy:
        from probes.harmfulness import attack

        _, fitted = asking.directions(loaded, study, options["batch_size"])
        ending = "." if asking.is_matched else None
        kept = study.keep(by=asking.by)
        return attack(loaded, asking.held_out, texts, fitted, ending=ending, seed=data.seed, keep=kept, **options)

    trials = 1 + options["n_per"] * len({j.family for j in texts})
    cost = observed_cost(asking, passes=2 * trials, new_tokens=trials * options["max_new_tokens"])
    asked = f"{asking.said()}; {len(texts)} jailbreaks"
    found = study.run(work, asked, folders, cost=cost, template_arguments=asking.template)
    print_result(with_caveats(found.statement(), asking.caveats), [], folders, as_json)


def suffixes(
    keep: WholeReportWithReplies,
    model: ChatModel,
    data: RequestData,
    options: Annotated[
        dict,
        taken(
            "probes.harmfulness.attacks.suffixes:find_suffixes",
            "",
            target=Option("Beginning of the reply that a suffix is to make likely."),
            steps=Option("Steps of the search, for each request.", least=1),
            search_width=Option("Suffixes that are tried in each step.", least=1),
            topk=Option("Tokens that the gradient offers at each place.", least=1),
            start=Option("The suffix that the search begins with."),
            batch_size=Option("Suffixes in a pass.", least=1, shown="all of a step"),
        ),
    ],
    as_json: bool = False,
) -> None:
    """Find a suffix for each harmful request that makes the model begin to comply (GCG, arXiv 2307.15043).

    For the harmful requests that are kept back. They go to OUT/suffixes.jsonl, for
    `interp attack jailbreaks --jailbreaks`. It needs nanogcg, and on a CPU minutes for a few steps.
    """
    import pandas as pd

    asking = data.read()
    study = Study(keep, model, data, asking.says_system)
    harmful = only_kind(asking.held_out, "harmful")
    file = study.out / "suffixes.jsonl"

    def work(loaded: Model) -> list[Jailbreak]:
        from probes.harmfulness import find_suffixes

        return find_suffixes(
            loaded,
            harmful,
            system=asking.system,
            seed=data.seed,
            keep=study.keep(file),
            **options,
        )

    cost = Cost(len(harmful), options["steps"] * (options["search_width"] + 3))
    found = study.run(work, f"{len(harmful)} harmful requests to find a suffix for", cost=cost)
    rows = [
        {"id": j.id, **{name: (j.origin or {})[name] for name in ("loss_plain", "loss_start", "loss")}} for j in found
    ]
    columns = {"id": "suffix", "loss_plain": "no suffix", "loss_start": "at the start", "loss": "found"}
    shown = [Shown("suffixes", pd.DataFrame(rows), columns, "Negative log-likelihood of the target, nats a token")]
    print_result([f"{len(found)} suffixes."], shown, as_json=as_json)
    say(f"suffixes: {file}")


def fine_tuning(
    keep: ReportWithReplies,
    model: ChatModel,
    data: EarlierRequests,
    recipe: Annotated[
        dict,
        taken(
            "probes.harmfulness.attacks.finetuning:Recipe",
            "while_generating rank learning_rate epochs",
            layer=Option(
                "Pairs are made by steering at this layer.", least=0, shown="the one two thirds of the way up"
            ),
            coefficient=Option("Minus this multiple of the refusal direction makes the replies to train on."),
        ),
    ],
    options: Annotated[
        dict,
        taken(
            "probes.harmfulness.attacks.finetuning:attack_by_finetuning",
            "max_new_tokens batch_size",
            sizes=Option(
                "Pairs to train on; may be repeated.", flag="--size", least=1, shown="half of the requests to fit on"
            ),
        ),
    ],
    as_json: bool = False,
) -> None:
    """Fine-tune on harmful replies: does the model still know what is harmful, and does a guard that reads it?

    Beside the same training on harmless replies. Trained on the requests to fit on, asked those kept
    back; the model is left as it was.
    """
    asking = data.read(model.template)
    study = Study(keep, model, data, asking.says_system)
    folders = asking.folders(study)
    fewest = min(len(only_kind(asking.fit, kind)) for kind in ("harmful", "harmless"))
    options = {"sizes": [max(1, fewest // 2)]} | options

    def work(loaded: Model) -> FineTuningStudy:
        from probes.harmfulness import attack_by_finetuning
        from probes.harmfulness.attacks import Recipe

        made = Recipe(**recipe, seed=data.seed)
        _, fitted = asking.directions(loaded, study, options["batch_size"])
        training, held_out = asking.ended(asking.fit), asking.ended(asking.held_out)
        kept = study.keep(by=asking.by)
        return attack_by_finetuning(loaded, training, held_out, fitted, recipe=made, keep=kept, **options)

    n = len(asking.held_out)
    conditions = 1 + 2 * len(options["sizes"])
    trained = 2 * sum(options["sizes"]) * (1 + 3 * recipe["epochs"]) / n
    new_tokens = conditions * options["max_new_tokens"] + 2 * max(options["sizes"]) * 32 / n
    cost = observed_cost(asking, passes=2 * conditions + trained, new_tokens=new_tokens)
    found = study.run(work, asking.said(), folders, cost=cost, template_arguments=asking.template)
    print_result(with_caveats(found.statement(), asking.caveats), [], folders, as_json)

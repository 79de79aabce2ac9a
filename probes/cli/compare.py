"""The command that puts saved rankings side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from probes.cli.declaring import Option
from probes.cli.study import Shown, print_result, require_folder

if TYPE_CHECKING:
    from interp.rankings import ComparedRankings

N_MOVED = 10  # heads of each pair that are printed


def compare(
    rankings: Annotated[
        list[str],
        Option(
            "Folders of saved rankings, two or more; FOLDER:MEASURE ranks by another measure of it.",
            metavar="FOLDER[:MEASURE]...",
            is_argument=True,
        ),
    ],
    name: Annotated[
        list[str] | None, Option("A name for each ranking, in order; repeated.", shown="model, score or folder")
    ] = None,
    k: Annotated[int, Option("Compare the first K heads as sets.", least=1)] = 10,
    bins: Annotated[int, Option("Bins of relative depth.", least=2)] = 10,
    out: Annotated[Path | None, Option("Folder for the page and its tables.", shown="none is written")] = None,
    overwrite: bool = False,
    as_json: bool = False,
) -> None:
    """Do two or more saved rankings agree: of models, checkpoints, methods or prompts?

    Rankings of one shape are compared head by head, against chance and against what noise would leave;
    all of them by relative depth, which is all that can be said of models of different shapes.
    """
    for given in rankings:
        place = Path(given) if Path(given).exists() else Path(given.rpartition(":")[0] or given)
        require_folder(place, "the folder of a saved ranking")
    from interp import compare_rankings

    compared = compare_rankings(rankings, names=name, k=k, n_bins=bins)
    if out is not None:
        compared.save(out, overwrite=overwrite)
    print_result(compared.statement(), _tables(compared), [] if out is None else [out], as_json)


def _tables(compared: ComparedRankings) -> list[Shown]:
    """For two rankings, their names stand in the titles and not in every row."""
    one = len(compared.rankings) == 2
    pair, of = ({} if one else {"a": "a", "b": "b"}), f": {' and '.join(compared.rankings)}" if one else ""
    given = {"ranking": "ranking", "score": "score", "n_examples": "examples", "layers": "layers"}
    given |= {"heads_a_layer": "heads each", "reliability": "reliability", "best_head": "best head"}
    heads = {"spearman": "Spearman", "ceiling": "ceiling", "overlap": "shared", "overlap_expected": "by chance"}
    heads |= {"overlap_p": "p", "rbo": "RBO", "rbo_expected": "by chance", "rbo_p": "p"}
    ranks = {"label": "head", "rank_a": "rank in a", "rank_b": "rank in b", "change": "change", "moved": "moved"}
    depth = {"of": "of the heads'", "correlation": "correlation", "chance_from": "chance from", "chance_to": "to"}
    moved = compared.moved()
    first = moved.groupby(["a", "b"], sort=False).head(N_MOVED) if len(moved) else moved
    return [
        Shown("compared", compared.given(), given, "What is compared"),
        Shown("pairs", compared.to_frame(), pair | heads, f"Head by head{of}; shared: of the first {compared.k}"),
        Shown("moved", first, pair | ranks, f"Heads that moved most{of}"),
        Shown("depth", compared.by_depth(), pair | depth | {"p": "p"}, f"By relative depth{of}"),
    ]

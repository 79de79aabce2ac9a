"""The command that joins what several processes did of one study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from probes.cli.declaring import Option
from probes.cli.options import say


def merge(
    out: Annotated[Path, Option("The folder that the shards share: their --out.", metavar="DIR", is_argument=True)],
) -> None:
    """Join the shards of a study (--shard I/N): every batch there once, all of one run.

    Then the same command without --shard reads the batches and writes the report.
    """
    from interp.records import merge_shards

    merged = merge_shards(out)
    rounding = f"; their logits differ by {merged.rounding:.1g} of their size" if merged.rounding else ""
    say(
        f"{merged.n_parts} part files of {merged.n_shards} shards are joined in {merged.out}{rounding}",
        "now the same command without --shard: it reads them and writes the report",
    )

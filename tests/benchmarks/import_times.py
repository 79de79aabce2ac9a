"""What an import costs beside `import transformer_lens`: `python -m tests.benchmarks.import_times` (import_times.md).

Processor seconds of a new Python less those of an empty one; of five rounds in turn the smallest, because what disturbs
only adds.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

REFERENCE = "import transformer_lens"
IMPORTS = {
    "import interp": "the package, before anything is used",
    "import interp; interp.load_result": "what reads a saved result",
    "import interp; interp.load": "what loads a model, before it is called",
    "import interp.models.loading, interp.models.adapter_repairs, interp.vision.adapters; "
    "from transformers import AttentionInterface": "the same, with what it imports when it is called",
    "from transformer_lens.model_bridge import TransformerBridge": "what loads a model in TransformerLens",
    "import interp; [getattr(interp, name) for name in interp.__all__]": "every public name of `interp`",
    "from probes import negative_bias; negative_bias.rank_heads": "a study",
    "import probes.cli": "the command line",
    REFERENCE: "the measure",
}
MOST = 1.15  # times the reference, for `import interp`
ROUNDS = 5


def seconds_of(code: str) -> float:
    """Processor seconds of a Python that runs it."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measured(imports: tuple[str, ...], rounds: int = ROUNDS) -> dict[str, float]:
    """Seconds of each import, less those of an empty Python."""
    codes = ("", *imports)
    taken = [[seconds_of(code) for code in codes] for _ in range(rounds)]
    empty, *smallest = [min(of_one) for of_one in zip(*taken, strict=True)]
    return {code: s - empty for code, s in zip(imports, smallest, strict=True)}


def markdown(found: dict[str, float]) -> str:
    rows = [f"| `{c}` | {IMPORTS[c]} | {s:.2f} | {s / found[REFERENCE]:.2f} |" for c, s in found.items()]
    head = ["# Import times", "", __doc__.split("\n\n")[1].replace("\n", " "), ""]
    return "\n".join([*head, "| code | what it is | seconds | ratio |", "|---|---|---|---|", *rows, ""])


def main() -> None:
    found = measured(tuple(IMPORTS))
    text = markdown(found)
    Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()

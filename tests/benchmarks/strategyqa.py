"""`make evaluate`: NAS of two real models on 200 StrategyQA questions, in both orders of the options.

Takes the path of the questions; writes strategyqa.md beside this file.
"""

from __future__ import annotations

import sys
from pathlib import Path

import interp
from interp.rankings.controls import control_summary
from interp.rankings.ranking import HeadRanking
from interp.statistics import Estimate
from probes import negative_bias

HERE = Path(__file__).parent
MODELS = ("smollm2-135m", "qwen2.5-coder-0.5b")
N = 200


def section(name: str, ranking: HeadRanking) -> list[str]:
    """The top ten heads with the controls, and what the whole ranking says."""
    top = ranking.top(10)
    behaviour = ranking.provenance["behaviour"]
    reliability = ranking.reliability
    summary = control_summary(ranking, k=10)
    lines = [f"## {name}", ""]
    lines += [
        f"n = {ranking.n_examples} questions ({ranking.provenance['data']['n_yes']} gold Yes); the model says "
        f"Yes {behaviour['says_yes']} times, accuracy {behaviour['accuracy']:.3f}. Split-half Spearman of the "
        f"ranking {reliability.mean:.3f}. Scan: {ranking.provenance['scan']['how']}, "
        f"{ranking.provenance['scan']['check']}.",
        "",
        "| head | NAS, Yes or No (95 % interval) | NAS, No or Yes (95 % interval) | order-balanced | total effect "
        "(logits) | direct effect (logits) |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in top.to_dict("records"):
        swapped = Estimate.from_row(row, "nas_swapped_order", ("nas_swapped_order_ci_low", "nas_swapped_order_ci_high"))
        lines.append(
            f"| {row['label']} | {Estimate.from_row(row, 'score', ('ci_low', 'ci_high')):.2f} | {swapped:.2f} | "
            f"{row['nas_order_balanced']:.2f} | {row['total_effect']:.3f} | {row['direct_effect']:.3f} |"
        )
    lines += ["", "Top ten when the options stand as No or Yes: "]
    lines[-1] += ", ".join(f"{r.label} {r.score:.2f}" for r in ranking.by("nas_swapped_order").top(10).itertuples())
    lines += ["", "Top ten by order-balanced NAS: "]
    lines[-1] += ", ".join(f"{r.label} {r.score:.2f}" for r in ranking.by("nas_order_balanced").top(10).itertuples())
    lines += ["", "Over all heads, NAS against:", ""]
    lines += ["| " + " | ".join(summary.columns) + " |", "|" + "---|" * len(summary.columns)]
    for row in summary.itertuples(index=False):
        lines.append("| " + " | ".join(v if isinstance(v, str) else f"{v:.3g}" for v in row) + " |")
    lines.append("")
    return lines


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tests.benchmarks.strategyqa PATH/TO/strategyqa_train.jsonl")
    questions = negative_bias.load_questions(sys.argv[1], limit=N)
    lines = [f"# Negative Attention Score on {N} StrategyQA questions", ""]
    lines += [
        "Made by `make evaluate`. Balanced sample, seed 0; query span after_instruction; zero ablation.",
        "",
    ]
    for name in MODELS:
        ranking = negative_bias.rank_heads(interp.load(name), questions, effects="zero", n_views=0)
        lines += section(name, ranking)
    (HERE / "strategyqa.md").write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()

"""The model card of a scene testbed, written by the script that trained it: what it is, how it answers, its limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from interp.reports.markdown import markdown
from interp.sources.conversions import sha256_of
from probes.scenes.training.evaluation import log_summary, tabulate, tabulate_forms


def write_card(
    target: Path,
    facts: Mapping[str, str],
    model: Any,
    answers: Mapping[str, pd.DataFrame],
    log: Sequence[Mapping[str, Any]],
    weights: str,
) -> None:
    """README.md beside the weights. ``facts``: "name", "what", "data", "training", "limits", "script", paragraphs; and
    "base_model", a hub id, where there is one."""
    vision, text = model.config.vision_config, model.config.get_text_config()
    n_tower = sum(p.numel() for p in model.model.vision_tower.parameters())
    n_projector = sum(p.numel() for p in model.model.multi_modal_projector.parameters())
    n_text = sum(p.numel() for p in model.model.language_model.parameters())
    lines = [
        "---",
        "license: apache-2.0",
        *([f"base_model: {facts['base_model']}"] if "base_model" in facts else []),
        "library_name: transformers",
        "pipeline_tag: image-text-to-text",
        "---",
        "",
        f"# {facts['name']}",
        "",
        facts["what"],
        "",
        f'    model = interp.load("{facts["name"]}")',
        "",
        "| part | |",
        "|---|---|",
        f"| vision tower | CLIP architecture, {vision.image_size} pixels in patches of {vision.patch_size}, "
        f"{vision.num_hidden_layers} layers, width {vision.hidden_size}; {n_tower:,} parameters |",
        f"| projector | two layers; {n_projector:,} parameters |",
        f"| language model | Llama architecture, {text.num_hidden_layers} layers x {text.num_attention_heads} heads "
        f"({text.num_key_value_heads} KV), width {text.hidden_size}; {n_text:,} parameters |",
        f"| image tokens | {model.config.image_seq_length} |",
        f"| weights | `{weights}`, float16, {(target / weights).stat().st_size / 1e6:.2f} MB, "
        f"SHA-256 `{sha256_of(target / weights)}` |",
        "| licence | Apache-2.0 |",
        "",
        *_section("Data", facts["data"]),
        *_section("Training", facts["training"]),
        markdown(log_summary(log)),
        "",
        *_section(
            "How it answers",
            "Measured in float32 on the float16 weights that ship, in the chat template; a scene's questions are "
            "packed behind its picture, none seeing another: the logits are those of each asked alone. An answer is "
            "right if the likeliest token of the whole vocabulary is the gold answer's first. `gold prob`: of the gold "
            "answer among its options; `in options`: how often the likeliest token is any option's. Yes/no questions "
            "come in pairs, one answered yes and one no, so an unbiased model says yes half the time. Intervals are "
            "Wilson's, 95 %, as if questions were independent (several are on one scene).",
        ),
        markdown(tabulate(answers)),
        "",
        'By form of question, on test ("beside" names an object by its place, as in "the object left of the circle"):',
        "",
        markdown(tabulate_forms(answers["test"])),
        "",
        *_section("Limits", facts["limits"]),
        f"Made by `python -m {facts['script']} WORK`.",
        "",
    ]
    (target / "README.md").write_text("\n".join(lines), encoding="utf-8")


def _section(title: str, paragraph: str) -> list[str]:
    return [f"## {title}", "", paragraph, ""]

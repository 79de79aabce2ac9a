"""How a scene testbed answers, by split, level and kind, and the model card that says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from interp.statistics import wilson_share
from probes.scenes.training.packing import Template, pack, pixel_values, target_logits
from probes.scenes.training.training import Pool

YES = "yes"


@torch.no_grad()
def answer_pool(model: Any, template: Template, pool: Pool, batch: int, dtype: Any = None) -> pd.DataFrame:
    """One row a question: level, kind, gold, whether the likeliest token of the whole vocabulary is the gold answer's
    first, whether it is any option's, the gold's probability among the options, and whether it says yes."""
    rows = []
    for start in range(0, len(pool), batch):
        here = range(start, min(start + batch, len(pool)))
        packed = pack(template, [pool.asked[i] for i in here])
        logits = target_logits(model, pixel_values(pool.images[list(here)]), packed, first_only=True).float()
        said = logits.argmax(dim=1).tolist()
        questions = [q for i in here for q in pool.questions[i]]
        for q, token, row in zip(questions, said, logits, strict=True):
            options = {option: template.first_token(option) for option in q.options}
            gold = options[q.answer]
            among = torch.softmax(row[list(options.values())], dim=0)[list(options).index(q.answer)].item()
            rows.append(
                {
                    "level": q.level,
                    "kind": q.kind,
                    "form": q.form,
                    "gold": q.answer,
                    "right": token == gold,
                    "is_option": token in options.values(),
                    "gold_prob": among,
                    "says_yes": token == options.get(YES, -1),
                }
            )
    return pd.DataFrame(rows)


def tabulate(answers: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Accuracy with Wilson's interval by split, level and kind; how often yes is said and right."""
    rows = []
    for split, frame in answers.items():
        for level in frame["level"].unique():
            for kind in ("yes_no", "open", "both"):
                part = frame[(frame["level"] == level) & ((frame["kind"] == kind) | (kind == "both"))]
                if not len(part):
                    continue
                row = {"split": split, "level": level, "kind": kind.replace("_", "/"), "n": len(part)}
                row |= wilson_share(part["right"].to_numpy()).columns("accuracy")
                row |= {"gold_prob": part["gold_prob"].mean(), "in_options": part["is_option"].mean()}
                is_yes_no = kind == "yes_no"
                row["says_yes"] = part["says_yes"].mean() if is_yes_no else np.nan
                row["gold_yes"] = (part["gold"] == YES).mean() if is_yes_no else np.nan
                rows.append(row)
    return pd.DataFrame(rows)


def tabulate_forms(frame: pd.DataFrame) -> pd.DataFrame:
    """Accuracy by form of question."""
    rows = []
    for (level, kind, form), part in frame.groupby(["level", "kind", "form"], sort=True):
        row = {"level": level, "kind": kind.replace("_", "/"), "form": form.replace("_", " "), "n": len(part)}
        rows.append(row | wilson_share(part["right"].to_numpy()).columns("accuracy"))
    return pd.DataFrame(rows)


def log_summary(log: Sequence[Mapping[str, Any]], every: int = 5) -> pd.DataFrame:
    """Each stage's log, thinned; a column of each fact that a stage has."""
    last = {row["stage"]: row for row in log}
    kept = [row for i, row in enumerate(log) if i % every == every - 1 or row is last[row["stage"]]]
    frame = pd.DataFrame(kept)
    whole = {name: ["–" if np.isnan(x) else f"{x:.0f}" for x in frame[name]] for name in ("step", "seconds")}
    return frame.assign(**whole)

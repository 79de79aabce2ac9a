"""Train the twins: ``python -m probes.known_answers.twins.training [TASK [SEED]]``; minutes each on one core.

Interchange intervention training (Geiger et al. 2022, arXiv 2112.00826), strict (Gupta et al. 2024, InterpBench, arXiv
2407.14494): three losses, all cross-entropies at the last position.

- Behaviour: the model's answer is the task's.
- Interchange: outputs of some variables' heads are taken, at every position, from the pass over another input. The
  answer must be the one that the task gives with those variables' values taken from there.
- Strictness: outputs of some of the *other* heads are taken from there. The answer must stay the input's own.

Differences from the paper: all variables of a random set are interchanged together, not one at a time; MLPs are left
free, since only heads are ranked here; no weight schedule; and labels are smoothed, so that the losses ask for logits
that stay, not only for answers that stay.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import interp
from interp.architecture import run_pass
from interp.locating import heads_rewritten
from probes.known_answers.tasks import Rows, Task
from probes.known_answers.twins.tasks import TASKS
from probes.known_answers.twins.weights import (
    DATA,
    N_HEADS,
    N_SPARE,
    assigned_heads,
    cut_spare_heads,
    fresh_twin,
    save_twin,
    twin_name,
)

GOOD = 0.95  # share of right answers that each of the three losses must reach
VERY_GOOD = 0.995  # training ends early
SMOOTHING = 0.02  # of the labels


def train_twin(task: Task, seed: int, steps: int = 3500, batch: int = 96, folder: Path = DATA) -> Path:
    """Train one twin until it answers right in all three ways, or the steps are used up; its card says what was
    reached. Costs two passes of ``batch`` rows, and their gradients, a step."""
    began = time.perf_counter()
    hf = fresh_twin(task, seed)
    model, heads = interp.load(hf), assigned_heads(task, seed)
    hf.train()
    rng = np.random.default_rng(seed)
    optimiser = torch.optim.AdamW(hf.parameters(), lr=4e-3, weight_decay=0.01)
    reached: dict[str, float] = {}
    for step in range(1, steps + 1):
        for group in optimiser.param_groups:
            group["lr"] = 4e-3 * min(1, step / 100) * (0.5 + 0.5 * np.cos(np.pi * step / steps)) + 1e-5
        trial = Trial(task, heads, task.n_layers, batch, rng)
        behaviour, changed = trial.logits(model)
        loss = F.cross_entropy(behaviour, trial.own, label_smoothing=SMOOTHING)
        loss = loss + F.cross_entropy(changed, trial.expected, label_smoothing=SMOOTHING)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(hf.parameters(), 1.0)
        optimiser.step()
        cut_spare_heads(hf)
        if step % 500 == 0:
            reached = accuracies(model, task, heads, n=500)
            print(f"{twin_name(task.name, seed)} step {step} {time.perf_counter() - began:.0f} s {reached}", flush=True)
            if min(reached.values()) >= VERY_GOOD and step >= 1500:
                break
    hf.half().float().eval()  # as it is shipped
    card = {
        "task": task.name,
        "question": task.question,
        "seed": seed,
        "architecture": hf.config.model_type,
        "heads": {name: list(head) for name, head in heads.items()},
        "right": accuracies(model, task, heads, n=4000),
        "steps": step,
        "seconds": round(time.perf_counter() - began),
        "licence": "Apache-2.0",
    }
    return save_twin(hf, task, seed, card, folder)


class Trial:
    """Base inputs, source inputs, and which heads' outputs go from one to the other: the first half of the rows
    interchange variables, the second half other heads."""

    def __init__(
        self, task: Task, heads: dict[str, tuple[int, int]], n_layers: int, batch: int, rng: np.random.Generator
    ) -> None:
        base, source = task.sample(batch, rng), task.sample(batch, rng)
        half = batch // 2
        self.base: Rows = base
        self.source: Rows = source
        self.own = torch.tensor(task.answers(source))
        self.swap = torch.zeros(batch, n_layers, N_HEADS, dtype=torch.bool)
        expected = task.answers(base)
        chosen = rng.random((half, len(heads))) < 1 / len(heads)
        chosen[np.arange(half), rng.integers(len(heads), size=half)] = True  # at least one
        for pattern in np.unique(chosen, axis=0):
            of = np.flatnonzero((chosen == pattern).all(1))
            values = task.variables(source[of], {})
            given = {name: values[name] for name, taken in zip(task.names, pattern, strict=True) if taken}
            expected[of] = task.answers(base[of], given)
        for k, (layer, head) in enumerate(heads.values()):
            self.swap[:half, layer, head] = torch.tensor(chosen[:, k])
        others = torch.ones(n_layers, N_HEADS, dtype=torch.bool)
        others[:, N_HEADS - N_SPARE :] = False
        for layer, head in heads.values():
            others[layer, head] = False
        share = torch.tensor(rng.random((batch - half, 1, 1)))
        self.swap[half:] = others & (torch.tensor(rng.random((batch - half, n_layers, N_HEADS))) < share)
        self.expected, self.half = torch.tensor(expected), half

    def logits(self, model: interp.Model) -> tuple[Tensor, Tensor]:
        """At the last position: of the source rows as they are, and of the base rows changed."""
        seen: dict[int, Tensor] = {}

        def swap(layer: int, z: Tensor) -> Tensor:
            return torch.where(self.swap[:, layer, None, :, None], seen[layer], z)

        with heads_rewritten(model, seen.__setitem__):
            behaviour = _last_logits(model, self.source)
        with heads_rewritten(model, swap):
            changed = _last_logits(model, self.base)
        return behaviour, changed


def _last_logits(model: interp.Model, rows: Rows) -> Tensor:
    return run_pass(model, {"input_ids": torch.tensor(rows), "use_cache": False}).logits[:, -1]


@torch.no_grad()
def accuracies(
    model: interp.Model, task: Task, heads: dict[str, tuple[int, int]], n: int = 1000, seed: int = 99
) -> dict[str, float]:
    """Share of right answers: as it is, with variables interchanged, and with other heads interchanged."""
    trial = Trial(task, heads, task.n_layers, n, np.random.default_rng(seed))
    was_training = model.hf.training
    model.hf.eval()
    behaviour, changed = trial.logits(model)
    model.hf.train(was_training)
    right = (changed.argmax(-1) == trial.expected).float()
    return {
        "behaviour": float((behaviour.argmax(-1) == trial.own).float().mean()),
        "interchange": float(right[: trial.half].mean()),
        "strictness": float(right[trial.half :].mean()),
    }


def main(arguments: list[str]) -> None:
    """Train those that are not there yet (or were not good), of one task or all."""
    torch.set_num_threads(1)
    tasks = arguments[:1] or list(TASKS)
    seeds = [int(arguments[1])] if len(arguments) > 1 else [0, 1, 2]
    for seed in seeds:
        for name in tasks:
            card = DATA / f"{twin_name(name, seed)}.json"
            if card.is_file() and min(json.loads(card.read_text("utf-8"))["right"].values()) >= GOOD:
                continue
            print(train_twin(TASKS[name], seed), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

"""The models whose heads are known, each with its inputs: compiled programs and trained twins, whole or altered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool

import interp
from interp.pairs import PromptPairs
from probes.known_answers.programs import PROGRAMS, build_program, program_names, program_task
from probes.known_answers.tasks import Task
from probes.known_answers.twins import build_twin, twin_names
from probes.known_answers.twins.tasks import TASKS

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Head = tuple[int, int]


@dataclass(frozen=True, eq=False)
class KnownModel:
    """A model, the task that it does, and the head of each of the task's variables.

    ``spare``: heads that write nothing, or where nothing reads. ``undecided``: heads that neither count as found nor as
    false (a backup). ``alteration``: what was changed, "" for nothing.
    """

    name: str
    kind: str
    model: interp.Model
    task: Task
    heads: Mapping[str, Head]
    spare: tuple[Head, ...]
    card: Mapping[str, Any] = field(default_factory=dict)
    undecided: tuple[Head, ...] = ()
    alteration: str = ""

    @property
    def truth(self) -> Bool[np.ndarray, "layer head"]:
        """Which heads carry a variable of the task."""
        return self._marked(self.heads.values())

    @property
    def counts(self) -> Bool[np.ndarray, "layer head"]:
        """Which heads a ranking is scored on: all but the undecided ones."""
        return ~self._marked(self.undecided)

    def _marked(self, heads: Any) -> Bool[np.ndarray, "layer head"]:
        mark = np.zeros((self.model.n_layers, self.model.n_heads), bool)
        for layer, head in heads:
            mark[layer, head] = True
        return mark

    def pairs(self, n: int = 20, seed: int = 0, constant: str | None = None, silent: str | None = None) -> PromptPairs:
        """n pairs of inputs with different answers, both of which the model gives.

        Args:
            constant: a variable that has the same value in both inputs of each pair: its head has nothing to show.
            silent: a variable whose value may be exchanged between the two inputs of a pair without changing either
                answer: its head is not exercised.

        Raises ``KeyError`` for an unknown variable, ``ValueError`` where 20,000 draws give too few pairs.
        """
        for name in (constant, silent):
            if name is not None and name not in self.heads:
                raise KeyError(f"{self.name} has no variable {name!r}; it has {', '.join(self.heads)}.")
        rng, kept = np.random.default_rng([seed, 7]), []
        for _ in range(20):
            drawn = self._draw(max(4 * n, 50 if constant is silent is None else 1000), rng, constant, silent)
            kept += [pair for pair in self._answered(drawn[: 4 * n]) if pair not in kept]
            if len(kept) >= n:
                clean, corrupt, answers = zip(*kept[:n], strict=True)
                return PromptPairs.from_token_ids(clean, corrupt, answers)
        raise ValueError(f"{self.name}: {len(kept)} of {n} pairs were found (constant={constant}, silent={silent}).")

    def _draw(self, n: int, rng: np.random.Generator, constant: str | None, silent: str | None) -> list[tuple]:
        base, source = self.task.sample(n, rng), self.task.sample(n, rng)
        values, others = self.task.variables(base, {}), self.task.variables(source, {})
        right, wrong = self.task.answer(base, values), self.task.answer(source, others)
        good = right != wrong
        if constant is not None:
            good &= _rows_equal(values[constant], others[constant])
        if silent is not None:
            good &= self.task.answers(base, {silent: others[silent]}) == right
            good &= self.task.answers(source, {silent: values[silent]}) == wrong
        return [(tuple(base[i]), tuple(source[i]), (right[i], wrong[i])) for i in np.flatnonzero(good)]

    def _answered(self, pairs: Sequence[tuple]) -> list[tuple]:
        if not pairs:
            return []
        made = PromptPairs.from_token_ids(*zip(*pairs, strict=True))
        said = self.model.final_logits([*made.clean, *made.corrupt], batch_size=64).argmax(-1).numpy()
        right = np.array([answers for _, _, answers in pairs]).T.ravel() == said
        return [pair for pair, both in zip(pairs, right.reshape(2, -1).all(0), strict=True) if both]

    def right(self, n: int = 500, seed: int = 1) -> float:
        """The share of random inputs that the model answers as the task does."""
        rows = self.task.sample(n, np.random.default_rng(seed))
        prompts = [interp.Prompt.from_token_ids(row) for row in rows]
        return float(
            (self.model.final_logits(prompts, batch_size=64).argmax(-1).numpy() == self.task.answers(rows)).mean()
        )

    def __repr__(self) -> str:
        heads = ", ".join(f"{name} L{layer}H{head}" for name, (layer, head) in self.heads.items())
        return f"KnownModel({self.name!r}{f', {self.alteration}' if self.alteration else ''}: {heads})"


def _rows_equal(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a == b).reshape(len(a), -1).all(1)


def known_models(kind: str | None = None) -> tuple[str, ...]:
    """Names of the models, all or those of one kind ("program", "twin")."""
    named = {"program": program_names(), "twin": twin_names()}
    if kind is not None and kind not in named:
        raise ValueError(f"kind={kind!r}; expected 'program', 'twin' or None for both.")
    return tuple(name for k, names in named.items() if kind in (k, None) for name in names)


def load_known(name: str) -> KnownModel:
    """A model of the suite by its name. Costs a second at most. Raises ``ValueError`` for an unknown name."""
    if name in program_names():
        hf, card = build_program(name)
        return loaded("program", name, hf, card, program_task(PROGRAMS[name], card))
    if name in twin_names():
        hf, card = build_twin(name)
        return loaded("twin", name, hf, card, TASKS[card["task"]])
    raise ValueError(f"there is no known model {name!r}; expected one of {', '.join(known_models())}.")


def loaded(kind: str, name: str, hf: PreTrainedModel, card: Mapping[str, Any], task: Task) -> KnownModel:
    """The known model around a transformers model."""
    heads = {variable: (int(layer), int(head)) for variable, (layer, head) in card["heads"].items()}
    model = interp.load(hf)
    if kind == "twin":
        spare = tuple((layer, model.n_heads - k) for layer in range(model.n_layers) for k in (2, 1))
    else:
        every = ((layer, head) for layer in range(model.n_layers) for head in range(model.n_heads))
        spare = tuple(place for place in every if place not in heads.values())
    return KnownModel(name, kind, model, task, heads, spare, card)

"""Train the query rows of one head (and, if asked, its key group's), and nothing else; the usual rival, LoRA; and
LoRA on whole replies.

The rows being trained are parameters of their own, which act in place of the model's; the optimiser knows no other
number, so weight decay can't move one. What enters the head's layer is computed once for each prompt.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.architecture import attached, input_of, run_pass, turn_of
from interp.door.brief import brief
from interp.edits import HeadRows, current_rows, projection, rows_replaced
from interp.passes import UpperLayers, answer_logits, any_looks_ahead, by_side, forget_lengths, is_right

if TYPE_CHECKING:
    from interp.models import Model
    from interp.prompts import Prompt


class LossNotFinite(ArithmeticError):
    """The training loss became NaN or infinite; nothing was kept."""


@dataclass(frozen=True, eq=False)
class KeptAnswers:
    """Prompts on which tuning shall change nothing: KL(before || now) of the next token, in nats, times ``weight``, is
    added to the loss. ``log_probs`` [example, vocabulary], float32, are the untuned model's."""

    prompts: tuple[Prompt, ...]
    log_probs: Float[Tensor, "example vocabulary"]
    weight: float = 1.0

    __repr__ = brief

    @classmethod
    def of(cls, model: Model, prompts: Sequence[Prompt], weight: float = 1.0) -> KeptAnswers:
        """What the model says now. Costs a forward pass of each prompt."""
        return cls(tuple(prompts), model.final_logits(list(prompts)).log_softmax(-1), weight)

    def loss(self, logits: Float[Tensor, "example vocabulary"], indices: Sequence[int]) -> Float[Tensor, ""]:
        """The term that is added, for the chosen prompts."""
        now, before = logits.float().log_softmax(-1), self.log_probs[list(indices)].to(logits.device)
        return self.weight * (before.exp() * (before - now)).sum(-1).mean()


class HeadTuner:
    """AdamW on one head's rows, with cross-entropy of the prompts' gold answers as loss.

    Args:
        prompts: what ``step`` chooses from, each with a ``gold`` answer.
        kept: prompts whose answers shall stay as they are.
        key_group: also train the rows of the key head that the query head reads. Its siblings read it too:
            ``siblings`` names them.

    Trained in float32 whatever the model's dtype. A step costs one forward and one backward pass of the layers from
    the head's up, on the tokens that the prompts do not share.
    """

    def __init__(
        self,
        model: Model,
        layer: int,
        head: int,
        prompts: Sequence[Prompt],
        *,
        learning_rate: float,
        weight_decay: float = 0.0,
        key_group: bool = False,
        kept: KeptAnswers | None = None,
    ) -> None:
        if without := [p.id for p in prompts if p.gold is None]:
            raise ValueError(f"{len(without)} prompts have no gold answer ({without[:3]} ...); tuning needs one each.")
        self.model, self.layer, self.head = model, layer, head
        group = model.n_heads // model.n_kv_heads
        rows = [current_rows(model, layer, head)]
        if key_group:
            rows.append(current_rows(model, layer, head // group, "key"))
        first = head // group * group
        self.siblings = tuple(h for h in range(first, first + group) if h != head) if key_group else ()
        self._rows = [_trainable(r) for r in rows]
        self._dtype = rows[0].weight.dtype
        parameters = [t for r in self._rows for t in (r.weight, r.bias) if t is not None]
        self._optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay)
        self._upper = UpperLayers(model, prompts, layer)
        self._kept = kept
        self._upper_kept = None if kept is None else UpperLayers(model, kept.prompts, layer)
        self.n_steps = 0

    @property
    def rows(self) -> tuple[HeadRows, ...]:
        """A copy of the rows as trained so far, in the model's dtype."""
        return tuple(
            replace(
                r,
                weight=r.weight.detach().to(self._dtype).clone(),
                bias=None if r.bias is None else r.bias.detach().to(self._dtype).clone(),
            )
            for r in self._rows
        )

    def applied(self) -> AbstractContextManager[None]:
        """A context in which the rows as trained so far act on the model."""
        return rows_replaced(self.model, self.rows)

    def step(self, indices: Sequence[int], kept: Sequence[int] = ()) -> float:
        """One step on the chosen prompts, and the chosen ones of those kept; returns the loss before it, in nats.
        Raises ``LossNotFinite``."""
        self.n_steps += 1
        with torch.enable_grad(), frozen(self.model), rows_replaced(self.model, self._rows):
            logits = self._upper.logits(indices)
            loss = gold_loss(logits, [self._upper.prompts[i] for i in indices])
            if kept:
                loss = loss + self._kept.loss(self._upper_kept.logits(kept), kept)
            _require_finite(loss, f"L{self.layer}H{self.head}", self.n_steps)
            self._optimizer.zero_grad()
            loss.backward()
        self._optimizer.step()
        return loss.item()


class LoraTuner:
    """AdamW on low-rank updates of every query and key projection (LoRA, arXiv 2106.09685, by peft): the rival that
    may change all heads. Use as a context manager; inside it the updates act on the model.

    A step costs one forward and one backward pass of the whole model. ``rows`` are the merged rows of all heads.
    """

    def __init__(
        self,
        model: Model,
        prompts: Sequence[Prompt],
        *,
        rank: int = 8,
        learning_rate: float,
        kept: KeptAnswers | None = None,
        seed: int = 0,
    ) -> None:
        self.model, self.prompts, self.n_steps, self._kept = model, list(prompts), 0, kept
        wanted = {projection(model, layer, 0, kind)[0] for layer in range(model.n_layers) for kind in ("query", "key")}
        self._updates = _LowRankUpdates(model, wanted, rank, learning_rate, seed)
        self.n_parameters = self._updates.n_parameters

    def __enter__(self) -> LoraTuner:
        return self

    def __exit__(self, *exception: object) -> None:
        self._updates.remove()

    @property
    def rows(self) -> tuple[HeadRows, ...]:
        """The rows of all query and key heads with the updates merged, in the model's dtype."""
        found = []
        deltas = {}
        for name, module in self._updates.modules.items():
            deltas[module] = self.model.hf.get_submodule(name).get_delta_weight("default").detach()
        for layer in range(self.model.n_layers):
            for kind, n in (("query", self.model.n_heads), ("key", self.model.n_kv_heads)):
                for head in range(n):
                    module, where = projection(self.model, layer, head, kind)
                    row = current_rows(self.model, layer, head, kind)
                    found.append(replace(row, weight=row.weight + deltas[module][where].to(row.weight)))
        return tuple(found)

    def step(self, indices: Sequence[int], kept: Sequence[int] = ()) -> float:
        """As :meth:`HeadTuner.step`."""
        self.n_steps += 1
        chosen = [self.prompts[i] for i in indices]
        with torch.enable_grad():
            loss = gold_loss(answer_logits(self.model, chosen), chosen)
            if kept:
                same = [self._kept.prompts[i] for i in kept]
                loss = loss + self._kept.loss(answer_logits(self.model, same), kept)
            _require_finite(loss, "LoRA", self.n_steps)
            self._updates.descend(loss)
        return loss.item()


class ReplyTuner:
    """AdamW on low-rank updates (LoRA) of the blocks' linear layers, with the cross-entropy of whole replies as loss:
    supervised fine-tuning. Use as a context manager; inside it the updates act on the model, and what reads the model
    (captures, generation) reads the tuned one. At the end the model is as it was, bit for bit.

    Args:
        prompts: each with its reply as the span "reply" (``model.prompt(text, reply=...)``). The loss is over these
            tokens only; that the reply ends is not trained.
        rank: of each update; its scale is lora_alpha / rank = 2.

    The output projection of the attention is left alone: edits of heads attach to it and would miss the update.
    A step costs one forward and one backward pass of the chosen prompts; only reply tokens are unembedded.
    Raises ``ValueError`` for prompts without a reply and for blocks without linear layers.
    """

    def __init__(
        self, model: Model, prompts: Sequence[Prompt], *, rank: int = 8, learning_rate: float, seed: int = 0
    ) -> None:
        model.require_fits(prompts)
        if without := [p.id or p.text[:40] for p in prompts if not p.spans.get("reply") or p.spans["reply"][0] == 0]:
            raise ValueError(
                f"{len(without)} prompts have no reply to learn ({without[:3]} ...); build each with "
                "model.prompt(text, reply=...)."
            )
        self.model, self.prompts, self.n_steps = model, list(prompts), 0
        blocks = model.components.blocks
        wanted = {m for b in blocks for m in b.module.modules() if isinstance(m, torch.nn.Linear)}
        wanted -= {b.out_projection for b in blocks}
        if not wanted:
            raise ValueError(f"the blocks of {model.name} ({type(model.hf).__name__}) have no torch.nn.Linear to tune.")
        self._updates = _LowRankUpdates(model, wanted, rank, learning_rate, seed)
        self.n_parameters = self._updates.n_parameters

    def __enter__(self) -> ReplyTuner:
        return self

    def __exit__(self, *exception: object) -> None:
        self._updates.remove()

    def step(self, indices: Sequence[int]) -> float:
        """One step on the chosen prompts; returns the loss before it, in nats a reply token. Raises
        ``LossNotFinite``."""
        self.n_steps += 1
        with torch.enable_grad():
            loss = self._nats(indices).mean()
            _require_finite(loss, "the replies", self.n_steps)
            self._updates.descend(loss)
        return loss.item()

    def loss(self, batch_size: int = 8) -> float:
        """Mean of :meth:`nats`. Before the first step it is the model's own, since updates begin at zero."""
        return float(self.nats(batch_size).mean())

    def nats(self, batch_size: int = 8) -> Float[Tensor, " reply_token"]:
        """Of every reply token, prompt by prompt, as the model is now. Costs a forward pass."""
        numbers = range(len(self.prompts))
        with torch.no_grad():
            return torch.cat([self._nats(numbers[s : s + batch_size]) for s in numbers[::batch_size]])

    def _nats(self, indices: Sequence[int]) -> Float[Tensor, " reply_token"]:
        """Of the chosen prompts, in passes that give each its own numbers."""
        chosen = [self.prompts[i] for i in indices]
        if any_looks_ahead(self.model, chosen):
            raise ValueError(
                f"{self.model.name} reads these prompts both ways, so a reply is not predicted from what comes before. "
                "Expected a causal language model."
            )
        parts: list[Tensor] = []
        order: list[int] = []
        for places in by_side(self.model, chosen):
            together = self._may_pad([chosen[i] for i in places])
            for own in [places] if together else [[i] for i in places]:
                parts.append(self._nats_of_pass([chosen[i] for i in own]))
                order += [i for i in own for _ in chosen[i].span("reply")]
        return torch.cat(parts)[torch.tensor(order).argsort(stable=True).to(parts[0].device)]

    def _may_pad(self, chosen: Sequence[Prompt]) -> bool:
        """Whether these prompts may be padded on the right, judged by the logits at their last positions."""

        def run(rows: Sequence[Prompt]) -> Float[Tensor, "example vocabulary"]:
            ends = torch.tensor([[row, len(p) - 1] for row, p in enumerate(rows)], device=self.model.device).T
            return self._logits_at(rows, *ends)

        with torch.no_grad():
            return is_right(self.model, chosen, run, "padded on the right")

    def _nats_of_pass(self, chosen: Sequence[Prompt]) -> Float[Tensor, " reply_token"]:
        places = [(row, pos) for row, p in enumerate(chosen) for pos in p.span("reply")]
        targets = torch.tensor([chosen[row].token_ids[pos] for row, pos in places], device=self.model.device)
        rows, positions = torch.tensor(places, device=self.model.device).T
        logits = self._logits_at(chosen, rows, positions - 1)
        return torch.nn.functional.cross_entropy(logits.float(), targets.to(logits.device), reduction="none")

    def _logits_at(
        self, chosen: Sequence[Prompt], rows: Int[Tensor, " place"], positions: Int[Tensor, " place"]
    ) -> Float[Tensor, "place vocabulary"]:
        """From one pass padded on the right, where the causal mask hides it."""
        width = max(map(len, chosen))
        ids = torch.tensor([[*p.token_ids, *[0] * (width - len(p))] for p in chosen], device=self.model.device)
        forget_lengths(self.model.hf)
        with _unembed_only(self.model, rows, positions):
            return run_pass(self.model, {"input_ids": ids, "use_cache": False}).logits[0]


class _LowRankUpdates:
    """Low-rank updates of some linear modules and their optimiser. They act from now on until ``remove``, which is for
    the same thread: others wait for the model meanwhile."""

    def __init__(
        self, model: Model, wanted: Collection[torch.nn.Module], rank: int, learning_rate: float, seed: int
    ) -> None:
        self._turn = turn_of(model.hf)
        self._turn.take()
        try:
            self._begin(model, wanted, rank, learning_rate, seed)
        except BaseException:
            self._turn.release()
            raise

    def _begin(
        self, model: Model, wanted: Collection[torch.nn.Module], rank: int, learning_rate: float, seed: int
    ) -> None:
        import peft  # slow to import, and only LoRA needs it

        self.modules = {name: module for name, module in model.hf.named_modules() if module in wanted}
        config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=list(self.modules))
        self._was = {p: p.requires_grad for p in model.hf.parameters()}
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self._adapted = peft.get_peft_model(model.hf, config)
        self._adapted.eval()
        parameters = [p for p in self._adapted.parameters() if p.requires_grad]
        self.n_parameters = sum(p.numel() for p in parameters)
        self._optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0)

    def descend(self, loss: Tensor) -> None:
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()

    def remove(self) -> None:
        try:
            self._adapted.unload()
            for parameter, was in self._was.items():
                parameter.requires_grad_(was)
        finally:
            self._turn.release()


def _unembed_only(
    model: Model, rows: Int[Tensor, " place"], positions: Int[Tensor, " place"]
) -> AbstractContextManager[None]:
    """While active, only these places are unembedded: the logits are [1, place, vocabulary]."""

    def pick(hidden: Float[Tensor, "row pos d_model"]) -> Float[Tensor, "1 place d_model"]:
        return hidden[rows.to(hidden.device), positions.to(hidden.device)][None]

    return attached(model, [input_of(model.components.unembedding, pick, "model")])


def gold_loss(logits: Float[Tensor, "example vocabulary"], prompts: Sequence[Prompt]) -> Float[Tensor, ""]:
    """Mean cross-entropy of the prompts' gold answers (their first tokens), in nats, in float32."""
    log_probs = logits.float().log_softmax(-1)
    return -torch.stack(
        [row[list(p.answer_tokens("gold"))].logsumexp(0) for row, p in zip(log_probs, prompts, strict=True)]
    ).mean()


@contextmanager
def frozen(model: Model) -> Iterator[None]:
    """While active, none of the model's own parameters takes a gradient."""
    was = {p: p.requires_grad for p in model.hf.parameters()}
    for parameter in was:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, value in was.items():
            parameter.requires_grad_(value)


def _require_finite(loss: Tensor, what: str, step: int) -> None:
    if not torch.isfinite(loss):
        raise LossNotFinite(
            f"the training loss of {what} is {loss.item()} at step {step}. Nothing was saved as finished. Lower the "
            "learning rate, or load with dtype=torch.float32."
        )


def _trainable(rows: HeadRows) -> HeadRows:
    bias = None if rows.bias is None else torch.nn.Parameter(rows.bias.float())
    return replace(rows, weight=torch.nn.Parameter(rows.weight.float()), bias=bias)

"""A condition on a request: where it is read in the pass that is running, what it reads, and what it decided for the
rows of a cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.architecture import Hook, attached, one_at_a_time, run_pass
from interp.door import as_tensor
from interp.door.brief import brief
from interp.edits.steered_positions import arguments_of, watched
from interp.interventions import stream_hook
from interp.passes import passes

if TYPE_CHECKING:
    from interp.models import Model
    from interp.prompts import Prompt


@dataclass(frozen=True, eq=False)
class Condition:
    """A reading of a request and its threshold. The reading is the sum over the layers of h.v, h being the state at the
    layer's input (``normed``: h / |h|), and the condition holds where it is at least the threshold.

    Where it is read is told by token ids, so padding and the reply can't move it: the last place in a row where
    ``tail`` stands is the end of its request. A row without it is no request, and the condition does not hold there.

    Args:
        vectors: layer -> [d_model], float32; layer l is the input of block l, n_layers the last block's output.
        threshold: in the unit of the reading.
        tail: token ids of what the chat template puts behind every request.
        back: how many tokens before the last one of ``tail``: 0 is that one, len(tail) the request's own last token.
        normed: whether states are taken to length 1 first, so that a reading is a sum of cosines.
        model: the weights that it is of; empty: any of the right size.
        about: where it came from, and how often it held on validation.

    Raises:
        ValueError: no vectors, vectors or a threshold that are not finite, an empty tail, and a ``back`` outside of it.
    """

    vectors: Mapping[int, Float[Tensor, " d_model"]]
    threshold: float
    tail: tuple[int, ...]
    back: int = 0
    normed: bool = False
    model: Mapping[str, Any] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)

    __repr__ = brief

    def __post_init__(self) -> None:
        vectors = {int(layer): as_tensor(v, "vectors").detach().float().cpu() for layer, v in self.vectors.items()}
        object.__setattr__(self, "vectors", dict(sorted(vectors.items())))
        object.__setattr__(self, "tail", tuple(map(int, self.tail)))
        bad = [layer for layer, v in vectors.items() if v.ndim != 1 or not torch.isfinite(v).all()]
        if not vectors or bad or not np.isfinite(self.threshold):
            raise ValueError(
                f"vectors at layers {sorted(vectors)}, of which {bad} are not finite or not [d_model], and threshold "
                f"{self.threshold}; expected at least one finite vector and a finite threshold."
            )
        if not self.tail or not 0 <= self.back <= len(self.tail):
            raise ValueError(
                f"tail has {len(self.tail)} tokens and back={self.back}; expected the tokens that stand behind every "
                "request, and a place among them or just before (0 to their number)."
            )

    @property
    def layers(self) -> list[int]:
        return list(self.vectors)

    def check(self, model: Model) -> None:
        """Raise ``ValueError`` if the model has no such layers or another width."""
        described = self.model.get("n_layers", model.n_layers)
        if described != model.n_layers or self.layers[0] < 0 or self.layers[-1] > model.n_layers:
            raise ValueError(
                f"the condition reads layers {self.layers} of a model of {described} layers; {model.name} has "
                f"{model.n_layers}. Fit the guard on this model."
            )
        if wrong := [layer for layer, v in self.vectors.items() if len(v) != model.d_model]:
            raise ValueError(
                f"the condition's vector at layer {wrong[0]} has {len(self.vectors[wrong[0]])} numbers; {model.name} "
                f"has {model.d_model}. Fit the guard on this model."
            )

    @one_at_a_time
    def readings(self, model: Model, prompts: Sequence[Prompt], batch_size: int = 16) -> Float[np.ndarray, " example"]:
        """The reading of each prompt less the threshold: at least 0 where the condition holds. One pass a batch.

        Returns:
            [example]; -inf for a prompt without the tail.

        Raises:
            ValueError: a condition of another geometry.
        """
        self.check(model)
        found = np.full(len(prompts), np.nan)
        with torch.no_grad():
            for places in passes(model, prompts, batch_size):
                reading = ConditionRead(self)
                with attached(model, reading.hooks(model)):
                    inputs = model.inputs([prompts[i] for i in places]).inputs
                    run_pass(model, {**inputs, "use_cache": False} | model.last_logits_only())
                found[places] = reading.margin.double().cpu().numpy()
        return found

    def holds(self, model: Model, prompts: Sequence[Prompt], batch_size: int = 16) -> Bool[np.ndarray, " example"]:
        """Whether it holds for each prompt: :meth:`readings` of at least 0. One pass for each batch.

        ``prompts``: in any order. ``batch_size``: prompts in one pass.

        Returns:
            [example], bool.
        """
        return self.readings(model, prompts, batch_size) >= 0


class ConditionRead:
    """The reading of the pass that is running, row by row; of a pass that goes on from a cache, that of its prompts.

    Nothing of it is read on the host: decisions stay where the states are."""

    def __init__(self, condition: Condition) -> None:
        self.condition = condition
        self.margin: Float[Tensor, " row"] | None = None  # reading less threshold, while it is read a partial sum
        self.places: Int[Tensor, " row"] | None = None  # where it is read; -1: nowhere; None: decided before
        self._of_cache: WeakKeyDictionary[Any, Float[Tensor, " row"]] = WeakKeyDictionary()
        self._cache: Any = None

    def hooks(self, model: Model) -> list[Hook]:
        """What looks at the tokens of each pass, reads the layers, and keeps what was decided with the cache."""
        base, runs = watched(model)

        def look(args: tuple, kwargs: dict[str, Any]) -> None:
            given = arguments_of(base, args, kwargs)
            cache, ids = given.get("past_key_values"), given.get("input_ids")
            self._cache = cache
            if cache is not None and cache.get_seq_length() > 0:
                self._go_on(cache, given)
            else:
                self.begin(ids)

        def keep(args: tuple, kwargs: dict[str, Any], output: Any) -> None:
            cache = self._cache if self._cache is not None else getattr(output, "past_key_values", None)
            if cache is not None and self.margin is not None:
                self._of_cache[cache] = self.margin

        found = [Hook(base, look, "input", runs, counts=True, finds_rows=True)]
        for layer in self.condition.layers:
            found.append(stream_hook(model, layer, lambda states, layer=layer: self.read(layer, states)))
        return [*found, Hook(base, keep, "output", "freely")]  # where it is not called, going on is refused

    def begin(self, ids: Int[Tensor, "row pos"] | None) -> None:
        """A pass over whole prompts: find where each is read.

        Raises:
            ValueError: ``ids`` that are None, as those of a pass over embeddings.
        """
        if ids is None:
            raise ValueError("a condition is found by token ids; the model was given embeddings. Give input_ids.")
        self.places = places_of(ids, self.condition.tail, self.condition.back)
        self.margin = torch.full(ids.shape[:1], -self.condition.threshold, dtype=torch.float32, device=ids.device)

    def read(self, layer: int, states: Float[Tensor, "row pos d_model"]) -> None:
        """Add what one layer says; a pass that goes on from a cache adds nothing."""
        if self.places is None:
            return
        places = self.places.to(states.device)
        h = states[torch.arange(len(states), device=states.device), places.clamp(min=0)].float()
        if self.condition.normed:
            h = torch.nn.functional.normalize(h, dim=-1)
        margin = self.margin.to(states.device) + h @ self.condition.vectors[layer].to(h)
        self.margin = margin.masked_fill(places < 0, -torch.inf)

    def where(self, rewrite: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """``rewrite``, on rows for which the condition holds.

        Returns:
            A function of [row, pos, d_model] that gives the same shape.
        """

        def chosen(hidden: Float[Tensor, "row pos d_model"]) -> Float[Tensor, "row pos d_model"]:
            holds: Bool[Tensor, " row"] = self.margin.to(hidden.device) >= 0
            return torch.where(holds[:, None, None], rewrite(hidden), hidden)

        return chosen

    def bridge_look(self, ids: Int[Tensor, "row pos"], hook: Any) -> None:
        if ids.shape[1] == 1 and self.margin is not None and len(self.margin) == len(ids):
            self.places = None
        else:
            self.begin(ids)

    def _go_on(self, cache: Any, given: dict[str, Any]) -> None:
        margin = self._of_cache.get(cache)
        if margin is None:
            raise ValueError(
                "a pass goes on from a cache whose prompt was not read under this edit, so its condition was never "
                "decided. Read the whole prompt inside the block."
            )
        rows = next(given[name].shape[0] for name in ("input_ids", "inputs_embeds") if given.get(name) is not None)
        if rows != len(margin):
            raise ValueError(
                f"a pass of {rows} rows goes on from a cache of {len(margin)} requests: which reply is whose can't be "
                "told. Repeat the prompts before they are read (generate's num_return_sequences does)."
            )
        self.places, self.margin = None, margin


def places_of(ids: Int[Tensor, "row pos"], tail: tuple[int, ...], back: int) -> Int[Tensor, " row"]:
    """The position ``back`` tokens before the end of the last ``tail`` of each row of ``ids``.

    Returns:
        [row], from 0; -1 where there is none.
    """
    if ids.shape[1] < len(tail):
        return torch.full(ids.shape[:1], -1, device=ids.device)
    windows = ids.unfold(1, len(tail), 1) == torch.tensor(tail, device=ids.device)  # [row, start, tail]
    starts = torch.arange(windows.shape[1], device=ids.device)
    last = torch.where(windows.all(-1), starts, -len(tail) - 1).amax(1)
    return (last + len(tail) - 1 - back).clamp(min=-1)

"""Changes of a known model that leave its logits as they are, and mislead some ways of finding heads.

Each takes a :class:`KnownModel` and gives another, around a changed copy of the weights.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

import interp
from interp.reading import residual_states
from probes.known_answers.head_weights import AllHeads, HeadWeights
from probes.known_answers.programs import PROGRAMS, empty_program
from probes.known_answers.programs.rasp import Head as Attention

if TYPE_CHECKING:
    from probes.known_answers.suite import KnownModel


def move_constant(known: KnownModel, size: float = 1.0) -> KnownModel:
    """A spare head of every layer writes a constant, and the bias of the layer's attention takes it back.

    The constant is ``size`` times the difference of the stream between two inputs, at their last position after the
    layer, so that it means something to what reads it. Zero ablation of the spare head removes it, and direct
    attribution counts it; no input depends on it.
    """
    pairs = known.pairs(1)
    states = residual_states(known.model, [pairs.clean[0], pairs.corrupt[0]], [[len(pairs.clean[0]) - 1]] * 2)
    constants = states[0, 1:, 0] - states[1, 1:, 0]
    hf, heads = _copied(known)
    for layer in range(known.model.n_layers):
        head = _spare(known, layer)[0]
        was = heads.get(layer, head)
        read, bias, out = was.read.clone(), was.bias.clone(), was.out.clone()
        read[2, -1], bias[2, -1], out[:, -1] = 0, 1, size * constants[layer]
        heads.set(layer, head, HeadWeights(read, bias, out))
        heads.bias(layer, "out").sub_(size * constants[layer])
    return _around(known, hf, "constant moved")


def add_cancelling_pair(known: KnownModel, size: float = 1.5) -> KnownModel:
    """In each layer with a head of the task, two spare heads look where it looks. One writes something else of what it
    reads there (its features in another order, times ``size``), the other takes it away. Removing either changes the
    answer, removing both nothing: neither carries a variable.

    With ``size=2`` and a variable of two values, the head of the task and one of the two cancel as well as those two
    do: there is no one truth then.
    """
    hf, heads = _copied(known)
    for layer, head in {layer: head for layer, head in known.heads.values()}.items():
        was = heads.get(layer, head)
        for spare, sign in zip(_spare(known, layer), (1, -1), strict=False):
            heads.set(layer, spare, HeadWeights(was.read, was.bias, sign * size * was.out.roll(1, dims=1)))
    return _around(known, hf, "cancelling pair")


def rotate_outputs(known: KnownModel, seed: int = 0) -> KnownModel:
    """Every head's output z in another basis, with its rows of the output projection turned back."""
    hf, heads = _copied(known)
    generator = torch.Generator().manual_seed(seed)
    for layer in range(known.model.n_layers):
        for head in range(known.model.n_heads):
            turn = torch.linalg.qr(torch.randn(heads.d_head, heads.d_head, generator=generator))[0]
            was = heads.get(layer, head)
            read, bias = was.read.clone(), was.bias.clone()
            read[2], bias[2] = turn @ was.read[2], turn @ was.bias[2]
            heads.set(layer, head, HeadWeights(read, bias, was.out @ turn.T))
    return _around(known, hf, "rotated outputs")


def add_backup(known: KnownModel) -> KnownModel:
    """A head in a new last layer that does what the program's last head does, if that has given nothing.

    It has the last head's weights, which read what stays in the stream, and looks at the beginning of the sequence
    instead (where there is nothing to read) wherever the last head has given a value. So zero ablation of the last head
    changes nothing. The backup itself is undecided: it counts neither as found nor as false.

    Raises ``ValueError`` for twins, and for programs whose answer is not what a head selects.
    """
    if not has_backup(known):
        raise ValueError(f"{known.name}: a backup is made for a program whose answer is the value that a head selects.")
    program = PROGRAMS[known.card["program"]]
    layer, head = known.heads[program.output.name]
    new = known.model.n_layers
    hf = empty_program({**known.card, "n_layers": new + 1})
    state = {name: t.clone() for name, t in known.model.hf.state_dict().items()}
    last = f"transformer.h.{new - 1}."
    for name, tensor in list(state.items()):
        if name.startswith(last):
            kept = ".attn." in name or ".ln_" in name
            state[name.replace(last, f"transformer.h.{new}.")] = tensor.clone() if kept else torch.zeros_like(tensor)
    hf.load_state_dict(state)
    heads, labels = AllHeads(hf), known.card["coordinates"]
    written = [i for i, label in enumerate(labels) if label.startswith(f"__{program.output.name}__")]
    begins = labels.index("tokens:BOS")
    for other in range(known.model.n_heads):  # the last layer's own heads act once; its busy ones go on being busy
        if (new - 1, other) in known.heads.values():
            heads.set(new, other, heads.get(new, _spare(known, new - 1)[0]))
    slot = _spare(known, new - 1)[-1]
    was = heads.get(layer, head)
    read = was.read.clone()
    read[0, -1, written], read[1, -1, begins] = 100.0, 100.0
    heads.set(new, slot, HeadWeights(read, was.bias, was.out))
    made = _around(known, hf, "backup head")
    idle = ((new, other) for other in range(known.model.n_heads) if other != slot)
    return replace(made, undecided=((new, slot),), spare=(*known.spare, *idle))


def has_backup(known: KnownModel) -> bool:
    """Whether :func:`add_backup` can be made of it."""
    program = PROGRAMS.get(known.card.get("program", ""))
    return program is not None and isinstance(program.output, Attention) and program.output.gives == "value"


ALTERATIONS: Mapping[str, Callable[[KnownModel], KnownModel]] = {
    "constant moved": move_constant,
    "cancelling pair": add_cancelling_pair,
    "backup head": add_backup,
    "rotated outputs": rotate_outputs,
}


def logit_change(before: KnownModel, after: KnownModel, n: int = 50) -> float:
    """The largest difference of a logit between two models on n random inputs."""
    rows = before.task.sample(n, np.random.default_rng(3))
    prompts = [interp.Prompt.from_token_ids(row) for row in rows]
    logits = [known.model.final_logits(prompts, batch_size=64) for known in (before, after)]
    return float((logits[0] - logits[1]).abs().max())


def _copied(known: KnownModel):
    hf = copy.deepcopy(known.model.hf)
    return hf, AllHeads(hf)


def _spare(known: KnownModel, layer: int) -> list[int]:
    return [head for at, head in known.spare if at == layer][-2:]


def _around(known: KnownModel, hf, alteration: str) -> KnownModel:
    with warnings.catch_warnings():  # of the bridge, which is not used: weights of 100 round by more than load allows
        warnings.filterwarnings("ignore", message=".*TransformerLens's logits differ", category=UserWarning)
        model = interp.load(hf)
    return replace(known, model=model, alteration=alteration)

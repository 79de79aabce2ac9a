"""What is said beside a ranking by effect: heads that it does not see, and prompts that do not exercise them.

Each check looks at a few of the prompts, as many as its share of a fifth of the ranking's own cost allows, and gives a
sentence, or nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from interp.door.brief import brief
from interp.figures import head_label
from interp.interventions import Branch, EachHead, HeadEdit, ablate_each_head
from interp.locating.asked import Positions, varying_positions
from interp.locating.attributions import removal_by_gradient
from interp.locating.counting import counted
from interp.passes import text_from
from interp.prompts import Prompt
from interp.reading import attribute_heads, head_outputs, mean_head_outputs
from interp.scans.branches import span_length
from interp.scans.scan import scan
from interp.statistics import spearman

if TYPE_CHECKING:
    from interp.models import Model
    from interp.pairs import PromptPairs
    from interp.reading import LogitDifference

SHARE = 0.16
"""Of a ranking's cost that everything beside it may take, as it is planned: a fifth at most when it is counted."""
LARGE = 0.1
"""An effect is large from this share of the largest on."""
LITTLE = 0.05
"""An effect is next to nothing below this share of the largest."""
MEAN_OF = 4
"""A mean at the answer is of so many prompts at least: that of one is its own output."""
SMALL = 0.1
"""An effect is not seen where this share of it, or less, is left."""

Effects = Float[np.ndarray, "example layer head"]
Head = tuple[int, int]


@dataclass(eq=False)
class Looked:
    """A ranking by effect of a ``model``'s heads, to be looked at: ``effects`` [example, layer, head] in the unit of
    the ``metric``, of all ``prompts``, at ``positions``.

    ``passes``: what the ranking cost, over each prompt; None: so many ``scans``. ``ablation``: what took the place of a
    head's output ("zero", "mean", "mean_of_others", "patch" for the corrupt twin's output, "" for other prompts').
    ``twins``: corrupt prompts, where there are some.
    """

    model: Model
    prompts: Sequence[Prompt]
    metric: LogitDifference
    positions: Positions
    effects: Effects
    passes: float | None = None
    ablation: str = "zero"
    scans: int = 1
    twins: Sequence[Prompt] = ()

    __repr__ = brief

    def __post_init__(self) -> None:
        if self.passes is None:
            self.passes = self.scans * self.cost(self.positions)
        self.total = SHARE * self.passes * len(self.prompts)
        self.left = self.total
        self._means: dict[Positions, Tensor] = {}

    @property
    def shape(self) -> tuple[int, int]:
        """Layers and heads."""
        return self.model.n_layers, self.model.n_heads

    @property
    def everywhere(self) -> Positions:
        """All positions; of an ablation by other outputs or means, :func:`varying_positions`."""
        if self.ablation in ("zero", "mean_of_others"):
            return "all"
        return varying_positions(self.model, [*self.prompts, *self.twins])

    def few(self, share: float, cost: float, least: int = 1) -> list[int]:
        """So many prompts, spread over all, as this ``share`` of what may be spent allows, each at this ``cost`` in
        passes; none where it allows fewer than ``least``. What they cost is booked."""
        n = min(int(min(share * self.total, self.left) / cost), len(self.prompts))
        if n < min(least, len(self.prompts)):
            return []
        self.left -= n * cost
        return sorted({int(i) for i in np.linspace(0, len(self.prompts) - 1, n).round()})

    def scanned(self, chosen: Sequence[int], edits: Sequence[Branch], positions: Positions) -> np.ndarray:
        """What is lost on some prompts.

        Args:
            chosen: numbers of prompts. edits: a branch each. positions: where they act.

        Returns:
            [prompt, branch], in the metric's unit.
        """
        prompts = [self.prompts[i] for i in chosen]
        options = {"metric": self.metric, "positions": positions, "check": 0, "read_mass": False}
        return scan(self.model, prompts, edits, **options).drop

    def removed(self, ablation: str, positions: Positions) -> list[Branch]:
        """Each head removed by this ``ablation`` at these ``positions``; by its mean over a few prompts where the
        ablation is by other prompts' outputs. None where no several prompts can be paid."""
        if ablation in ("zero", "mean_of_others"):
            return ablate_each_head(ablation).branches(self.model)
        if positions not in self._means:
            several = self.few(1 / 4, 1, least=MEAN_OF if positions == "answer" else 1)
            if not several:
                return []
            last = 1 if positions == "answer" else positions if isinstance(positions, int) else None
            self._means[positions] = mean_head_outputs(self.model, [self.prompts[i] for i in several], last)
        return EachHead("mean").branches(self.model, self._means[positions])

    def price(self, layers: Sequence[int], positions: Positions) -> float:
        """Of one prompt, in passes: a scan of branches that edit first in these ``layers``, at these ``positions``."""
        prompt, n_layers = self.prompts[0], self.shape[0]
        m = span_length(prompt, positions)
        prefix = text_from(self.model, prompt, m)  # without one, rows are whole prompts
        share = (len(prompt) - prefix) / len(prompt)
        return (prefix > 0) + share * (1 + sum(n_layers - layer for layer in layers) / n_layers)

    def cost(self, positions: Positions) -> float:
        """Of one prompt, in passes: every head removed at these ``positions``."""
        n_layers, n_heads = self.shape
        return self.price([layer for layer in range(n_layers) for _ in range(n_heads)], positions)


def provenance_beside(looked: Looked, pairs: PromptPairs | None = None) -> dict[str, Any]:
    """What a ranking's provenance says beside it, and what that cost.

    Args:
        looked: the ranking.
        pairs: whose clean prompts it is of, if it is of pairs: then what they do not exercise is said too.

    Returns:
        ``beside``, sentences; ``beside_numbers``: :func:`said_beside`'s, ``passes`` over each prompt, counted, and
        ``share_of_the_ranking``, in passes.
    """
    with counted(looked.model) as cost:
        sentences, numbers = said_beside(looked)
        if pairs is not None:
            sentences += said_of_pairs(looked, pairs)
    numbers["passes"] = cost.passes(looked.model, looked.prompts)
    numbers["share_of_the_ranking"] = numbers["passes"] / looked.passes
    return {"beside": sentences, "beside_numbers": numbers}


def said_beside(looked: Looked) -> tuple[list[str], dict[str, float]]:
    """What a ranking of prompts does not see, and what it rests on.

    Args:
        looked: the ranking.

    Returns:
        Sentences, none where nothing is wrong; and by name: ``heads_not_seen``, a number of heads, and
        ``spearman_with_mean`` or ``spearman_with_zero``.

    Cost: a fifth of the ranking's passes; for a short ranking at the answer, one prompt's scan at all positions.
    Misleads: a few prompts are looked at, so silence is no proof; a head that acts at earlier positions of other
    prompts alone is missed.
    Source: ours, by the failures in docs/methods/known-answers.md.
    """
    sentences: list[str] = []
    numbers: dict[str, float] = {}
    unseen = heads_not_seen(looked)
    if unseen:
        sentences.append(
            f"{_count(unseen)} at earlier positions that this ranking does not see ({_names(unseen)}): take "
            "positions='all'."
        )
    numbers["heads_not_seen"] = len(unseen)
    if looked.ablation in ("zero", "mean"):
        other = "mean" if looked.ablation == "zero" else "zero"
        agreement, n = agreement_with(looked, other)
        if np.isfinite(agreement):
            numbers[f"spearman_with_{other}"] = agreement
        if agreement < (0.6 if n > 2 else 0.5):
            sentences.append(
                f"Zero and own mean disagree about the order of the heads (Spearman {agreement:.2f}): a head carries a "
                "constant, or another takes over when it is gone. Believe the mean."
            )
    if shares := together_alone(looked):
        sentences.append(
            f"No head alone changes the answer by more than {shares[0]:.2g} {looked.metric.unit}, all together by "
            f"{shares[1]:.2g}: answers are saturated, or heads stand in for each other. Remove sets of heads."
        )
    for head, other_head, lost in taken_over(looked):
        sentences.append(
            f"Removing {head_label(*head)} alone changes next to nothing, removing it with {head_label(*other_head)} "
            f"takes {lost:.2g} {looked.metric.unit}: one takes over from the other."
        )
    return sentences, numbers


def heads_not_seen(looked: Looked) -> list[Head]:
    """Heads with a large effect at all positions (:attr:`Looked.everywhere`) of which little is left at the ranking's
    own, exactly, on a few prompts; the heads of the last layer act at the answer alone.

    Where every head of one prompt is dearer than the check may be, only those of the layers that lose most more when
    they are removed whole at all positions than at the ranking's own; where that is too dear too (many layers), only
    those of which one gradient says the most: then more heads may act there than are found.
    """
    n_layers, n_heads = looked.shape
    prompt, where = looked.prompts[0], looked.everywhere
    if span_length(prompt, looked.positions) >= span_length(prompt, where) or n_layers == 1:
        return []
    before = [(layer, head) for layer in range(n_layers - 1) for head in range(n_heads)]
    removed = looked.removed(looked.ablation, where)
    if not removed:
        return []
    branches = np.array(removed, object).reshape(looked.shape)
    if chosen := looked.few(2 / 3, looked.price([layer for layer, _ in before], where)):
        heads = before
    else:
        chosen = [0]
        heads = _of_dear_layers(looked, branches) or _by_gradient(looked)
    if not heads:
        return []
    everywhere = np.zeros(looked.shape)
    several = [branches[head] for head in heads]
    everywhere[tuple(zip(*heads, strict=True))] = np.abs(looked.scanned(chosen, several, where)).mean(0)
    here = np.abs(looked.effects[chosen]).mean(0)
    largest = max(everywhere.max(), here.max())
    found = (everywhere > LARGE * largest) & (here < SMALL * everywhere)
    return sorted(map(tuple, np.argwhere(found).tolist()), key=lambda at: -everywhere[at])


def _of_dear_layers(looked: Looked, branches: np.ndarray) -> list[Head]:
    """The heads of the layers that lose most more when they are removed whole at all positions of the first prompt than
    at the ranking's own; none where that is too dear."""
    n_layers, n_heads = looked.shape
    layers, where = range(n_layers - 1), looked.everywhere
    spent = looked.price(layers, where) + looked.price(layers, looked.positions) + looked.price([], where)
    if spent + n_heads > looked.total:
        return []
    whole = [Branch(tuple(e for b in branches[layer] for e in b.edits)) for layer in layers]
    here = _whole_layers(looked, looked.positions)
    lost = np.abs(looked.scanned([0], whole, where)[0] - here)
    heads: list[Head] = []
    for layer in map(int, np.argsort(-lost)):
        price = looked.price([layer] * n_heads, where) - looked.price([], where)
        if heads and spent + price > looked.total / 2:
            break
        heads += [(layer, head) for head in range(n_heads)]
        spent += price
    looked.left -= spent
    return heads


def _whole_layers(looked: Looked, positions: Positions) -> Float[np.ndarray, " layer"]:
    """What the first prompt loses when each layer but the last is removed whole at these positions; 0 where no mean
    can be paid."""
    n_layers = looked.shape[0] - 1
    removed = looked.removed(looked.ablation, positions)
    if not removed:
        return np.zeros(n_layers)
    branches = np.array(removed, object).reshape(looked.shape)[:n_layers]
    whole = [Branch(tuple(e for b in of for e in b.edits)) for of in branches]
    return looked.scanned([0], whole, positions)[0]


def _by_gradient(looked: Looked) -> list[Head]:
    """The heads of which a gradient says that removing them at earlier positions of the first prompt loses most; none
    where not even the gradient may be taken."""
    n_layers, n_heads = looked.shape
    price = 3.0  # a forward and a backward pass
    if looked.total < price:
        return []
    try:
        estimate = removal_by_gradient(looked.model, looked.prompts[0], looked.metric)
    except RuntimeError:  # weights that take no gradient through them
        return []
    earlier = np.abs(estimate[:-1, : -span_length(looked.prompts[0], looked.positions)].sum(1))  # [layer, head]
    heads = []
    for at in np.argsort(-earlier, axis=None):
        layer, head = divmod(int(at), n_heads)
        price += (n_layers - layer) / n_layers
        if price > max(looked.total, 7):
            break
        heads.append((layer, head))
    looked.left -= price
    return heads


def agreement_with(looked: Looked, ablation: str) -> tuple[float, int]:
    """Spearman over heads of the ranking's effects and those by another ablation, on the same few prompts; and on how
    many. NaN where none may be looked at."""
    removed = looked.removed(ablation, looked.positions) if looked.left > looked.cost(looked.positions) else []
    chosen = looked.few(1 / 3, looked.cost(looked.positions)) if removed else []
    if not chosen:
        return float("nan"), 0
    other = np.abs(looked.scanned(chosen, removed, looked.positions)).mean(0)
    here = np.abs(looked.effects[chosen]).mean(0).ravel()
    floor = 0.01 * max(other.max(), here.max())  # below it there is no order
    return spearman(np.where(here < floor, 0, here), np.where(other < floor, 0, other))[0], len(chosen)


def together_alone(looked: Looked) -> tuple[float, float] | None:
    """What the head of the largest effect loses and what all heads removed together do, on a few prompts, where the
    first is next to nothing beside the second; None otherwise."""
    chosen = looked.few(1 / 20, looked.price([0], looked.positions))
    branches = looked.removed(looked.ablation, looked.positions) if chosen else []
    if not branches:
        return None
    together = Branch(tuple(edit for branch in branches for edit in branch.edits), "all heads")
    both = float(np.abs(looked.scanned(chosen, [together], looked.positions)).mean())
    one = float(np.abs(looked.effects[chosen]).mean(0).max())
    return (one, both) if one < SMALL * both else None


def taken_over(looked: Looked, most: int = 2) -> list[tuple[Head, Head, float]]:
    """Heads that write much toward an answer and whose removal changes next to nothing, where removing another one too
    does: (head, the other, what both lose beyond the other alone). On one prompt; of a ranking by zero alone, in which
    a backup wakes."""
    if looked.ablation != "zero" or not (chosen := looked.few(1 / 20, 1)[:1]):
        return []
    (i,) = chosen
    try:
        written = np.abs(attribute_heads(looked.model, [looked.prompts[i]], looked.metric)[0])
    except (ValueError, RuntimeError):  # no attribution of this architecture
        return []
    alone = looked.effects[i]
    largest = np.abs(alone).max()
    hidden = (written > 0.25 * written.max()) & (np.abs(alone) < LITTLE * largest)
    heads = sorted(map(tuple, np.argwhere(hidden).tolist()), key=lambda at: -written[at])
    found = []
    for head in islice(heads, most):
        later = [at for at in np.ndindex(alone.shape) if at[0] >= head[0] and at != head]
        if (price := looked.price([head[0]] * len(later), looked.positions)) > looked.left:
            break
        looked.left -= price
        both = [Branch((HeadEdit(*head), HeadEdit(*at))) for at in later]
        beyond = looked.scanned([i], both, looked.positions)[0] - np.array([alone[at] for at in later])
        best = int(np.abs(beyond).argmax())
        if abs(beyond[best]) > 0.25 * largest:
            found.append((head, later[best], float(abs(beyond[best]))))
    return found


def said_of_pairs(looked: Looked, pairs: PromptPairs) -> list[str]:
    """Sentences about what pairs do not vary, and what they do not exercise."""
    constant, silent = not_exercised(looked, pairs)
    sentences = []
    if constant:
        sentences.append(
            f"Your pairs do not vary what {_names(constant)} compute{'s' * (len(constant) == 1)}: the same in the "
            "clean and the corrupt prompt of each. A patch from the corrupt prompt can't show it."
        )
    if silent:
        sentences.append(
            f"Your pairs do not exercise {_names(silent)}: the corrupt prompt's output in its place changes nothing in "
            "any of them, another output does. Add pairs whose answers need it."
        )
    return sentences


def not_exercised(looked: Looked, pairs: PromptPairs) -> tuple[list[Head], list[Head]]:
    """Heads that matter, and give the same on both prompts of every pair; and those that give something else on the
    corrupt prompt which changes nothing in any pair. Looked at in several pairs, or in none; heads that show an effect
    are dropped, so that exercised ones cost little."""
    if looked.ablation == "patch":
        removed = looked.removed("mean", looked.positions)
        some = looked.few(1 / 3, looked.cost(looked.positions)) if removed else []
        lost = looked.scanned(some, removed, looked.positions) if some else np.zeros(1)
        size = np.abs(lost).mean(0).reshape(looked.shape) if some else np.zeros(looked.shape)
        exercised = np.abs(looked.effects).max(0) > LITTLE * max(size.max(), np.abs(looked.effects).max())
    else:
        size, exercised = np.abs(looked.effects).mean(0), np.zeros(looked.shape, bool)
    left = [tuple(at) for at in np.argwhere(~exercised & (size > LITTLE * size.max())).tolist()]
    places = looked.few(1 / 2, 2, least=6) if left else []
    if not places:
        return [], []
    lengths = [span_length(pairs.clean[i], looked.positions) for i in places]
    own = head_outputs(looked.model, [pairs.clean[i] for i in places], lengths)
    twins = head_outputs(looked.model, [pairs.corrupt[i] for i in places], None)
    source = [z[:, list(pairs.places(i)[-n:])] for i, n, z in zip(places, lengths, twins, strict=True)]
    within = np.mean([_distance(a, b) for a, b in zip(own, source, strict=True)], axis=0)
    apart = [_distance(a, b) for a, b in pairwise(own) if a.shape == b.shape]
    between = np.mean(apart, axis=0) if apart else np.zeros(looked.shape)
    constant = [at for at in left if within[at] < 0.1 * between[at]]
    left = [at for at in left if at not in constant and within[at] > 0]
    if looked.ablation == "patch":
        return constant, left
    largest = np.abs(looked.effects).max()
    for tried, (i, z) in enumerate(zip(places, source, strict=True)):
        price = 1 + len(left) * z.shape[1] / len(pairs.clean[i])
        if not left or looked.left < price:
            left = left if tried >= 6 else []
            break
        looked.left -= price
        patches = [Branch((HeadEdit(layer, head, "set", value=z[layer, :, head]),)) for layer, head in left]
        lost = looked.scanned([i], patches, looked.positions)[0]
        left = [at for at, value in zip(left, lost, strict=True) if abs(value) < LITTLE * largest]
    return constant, left


def _distance(a: Tensor, b: Tensor) -> Float[np.ndarray, "layer head"]:
    return (a - b).float().norm(dim=-1).mean(1).numpy()


def _count(heads: Sequence[Head]) -> str:
    return "1 head acts" if len(heads) == 1 else f"{len(heads)} heads act"


def _names(heads: Sequence[Head]) -> str:
    named = [head_label(*head) for head in heads[:5]]
    return ", ".join(named) + (f" and {len(heads) - 5} more" if len(heads) > 5 else "")

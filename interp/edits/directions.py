"""A direction in the residual stream, one vector for each layer: arithmetic, projection, files.

It knows the weights that it is of, and refuses to be mixed with those of others or applied to them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.door import made_by, public
from interp.edits.identity import describe_model, require_weights
from interp.records import load_artefact, save_artefact, understood

if TYPE_CHECKING:
    from interp.models import Model

_ROUNDING = 1e-6  # of the larger mean's norm: a difference below it is one of float32 sums


@made_by("interp.load_direction(folder) or Direction.from_states(...)")
@dataclass(frozen=True, eq=False)
class Direction:
    """A vector for the input of each block, and one for the output of the last (``interp.reading.residual`` counts so).

    vectors: float32, on the CPU, L + 1 rows. model: the weights that it is of
    (:func:`interp.edits.identity.describe_model`). about: where it came from; arithmetic keeps what it was made of.

    ``d + e``, ``d - e``, ``-d``, ``2 * d``, ``d / 2`` work row by row.

    Raises:
        ValueError: vectors that are not finite, another number of rows than the model has, and operands of other
            weights.
    """

    vectors: Float[Tensor, "layer d_model"]
    model: Mapping[str, Any]
    about: Mapping[str, Any] = field(default_factory=dict)

    __array_ufunc__ = None  # NumPy's numbers then leave `np.float64(2) * d` to us

    def __post_init__(self) -> None:
        vectors = torch.as_tensor(self.vectors).detach().to("cpu", torch.float32).contiguous()
        expected = (self.model.get("n_layers", vectors.shape[0] - 1) + 1, self.model.get("d_model", vectors.shape[-1]))
        if tuple(vectors.shape) != expected:
            raise ValueError(
                f"vectors have shape {tuple(vectors.shape)}; expected {expected}: a row for each of the "
                f"{expected[0] - 1} blocks of {self.model.get('name')!r}, and one for the last block's output."
            )
        if bad := (~torch.isfinite(vectors)).any(1).nonzero().flatten().tolist():
            raise ValueError(
                f"the vector of layer {bad[0]} is not finite ({len(bad)} of {len(vectors)} layers are not); expected "
                "finite states to have made it. Load with dtype=torch.float32 if half precision overflows."
            )
        object.__setattr__(self, "vectors", vectors)

    def __add__(self, other: Direction) -> Direction:
        return self._joined(other, "+", torch.add)

    def __sub__(self, other: Direction) -> Direction:
        return self._joined(other, "-", torch.sub)

    def __neg__(self) -> Direction:
        return self * -1.0

    def __mul__(self, factor: float) -> Direction:
        if isinstance(factor, (Direction, Tensor)):
            return NotImplemented
        return self._from(self.vectors * float(factor), f"times {float(factor):g}")

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> Direction:
        if isinstance(divisor, (Direction, Tensor)):
            return NotImplemented
        return self._from(self.vectors / float(divisor), f"divided by {float(divisor):g}")

    def norms(self) -> Float[Tensor, " layer"]:
        """Length of each row.

        Returns:
            [layer], in the units of the stream.
        """
        return self.vectors.norm(dim=-1)

    def unit(self) -> Direction:
        """Rows of length 1; a zero row stays zero."""
        return self._from(_unit(self.vectors).float(), "unit rows")

    def project(self, states: Float[Tensor, "... layer d_model"]) -> Float[Tensor, "... layer"]:
        """Component of each state along the row of its layer.

        States have all L + 1 layers, as :func:`interp.reading.residual.residual_states` gives them for one position.

        ``states`` [..., L + 1, d_model]: one state for each layer, the embedding's first.

        Returns:
            [..., L + 1], in the units of the stream; NaN where the row is zero.

        Raises:
            ValueError: states of another number of layers or another width.
        """
        if states.shape[-2:] != self.vectors.shape:
            raise ValueError(
                f"states have shape {tuple(states.shape)}; expected [..., {', '.join(map(str, self.vectors.shape))}] "
                "(layer, d_model): take one position first."
            )
        along = torch.einsum("...ld,ld->...l", states.float(), _unit(self.vectors).float().to(states.device))
        return along.masked_fill((self.norms() == 0).to(along.device), torch.nan)

    def cosine(self, other: Direction) -> Float[Tensor, " layer"]:
        """Cosine with another direction, row by row.

        ``other``: of the same width and number of layers.

        Returns:
            [layer], -1 to 1; NaN where either row is zero.

        Raises:
            ValueError: a direction of other weights.
        """
        self._require_like(other)
        cosine = (_unit(self.vectors) * _unit(other.vectors)).sum(-1).clamp(-1, 1).float()
        return cosine.masked_fill((self.norms() == 0) | (other.norms() == 0), torch.nan)

    def orthogonal_to(self, other: Direction) -> Direction:
        """What is left when the part along the other's row is taken away; all, where that row is zero.

        Of two rows that are nearly parallel, little but rounding is left: look at the norms.

        Raises:
            ValueError: a direction of other weights.
        """
        self._require_like(other)
        own, unit = self.vectors.double(), _unit(other.vectors)
        left = own - (own * unit).sum(-1, keepdim=True) * unit
        return self._from(left.float(), "orthogonal to", other)

    def scaled_to(self, other: Direction) -> Direction:
        """This one's rows with the other's norms.

        Raises:
            ValueError: a direction of other weights.
        """
        self._require_like(other)
        rows = _unit(self.vectors) * other.vectors.double().norm(dim=-1, keepdim=True)
        return self._from(rows.float(), "with the norms of", other)

    def require_fits(self, model: Model) -> None:
        """Raise ``ValueError`` unless the model has the very weights that this is of. Reads every weight (about a
        second for each GB)."""
        require_weights(model, self.model, "this direction")

    @classmethod
    def from_tensors(
        cls,
        tensors: Mapping[int, Tensor] | Float[Tensor, "layer d_model"],
        model: Model,
        about: Mapping[str, Any] | None = None,
    ) -> Direction:
        """A direction of the model's weights as they are now (which are hashed) from what one has: a vector for some
        of the layers, by number (0: the embedding; the others are zero), or a row for each.

        Args:
            tensors: layer -> vector [d_model], or all rows [L + 1, d_model].
            model: the model in whose stream they point.
            about: where they come from; it is saved with them.

        Raises:
            ValueError: a layer that the model does not have, and vectors of another width.

        Cost: no pass; about a second for each GB of weights, which are hashed.
        """
        if isinstance(tensors, Mapping):
            wrong = [layer for layer in tensors if not 0 <= layer <= model.n_layers]
            if wrong or any(tuple(vector.shape) != (model.d_model,) for vector in tensors.values()):
                shapes = {layer: tuple(vector.shape) for layer, vector in tensors.items()}
                raise ValueError(
                    f"vectors of shapes {shapes} were given; expected vectors of {model.d_model} numbers for layers 0 "
                    f"to {model.n_layers} of {model.name!r} ({model.n_layers}: the last block's output)."
                )
            rows = torch.zeros(model.n_layers + 1, model.d_model, dtype=torch.float32)
            for layer, vector in tensors.items():
                rows[layer] = vector.detach().to("cpu", torch.float32)
        else:
            rows = tensors
        return cls(rows, describe_model(model), about or {})

    def to_tensors(self) -> dict[int, Float[Tensor, " d_model"]]:
        """The rows that are not zero, copied: plain tensors for whatever else reads them.

        Returns:
            layer -> [d_model].
        """
        return {layer: row.clone() for layer, row in enumerate(self.vectors) if row.any()}

    def save(self, directory: str | Path) -> Path:
        """Write ``direction.safetensors`` and ``direction.json``, replacing an earlier direction's. No pickle.

        ``directory`` is made if need be, and returned.
        """
        record = {"kind": "Direction", "model": dict(self.model), "about": dict(self.about)}
        return save_artefact(directory, "direction", record, {"vectors": self.vectors})

    def _from(self, vectors: Tensor, how: str, other: Direction | None = None) -> Direction:
        """A direction of the same weights; ``about`` says how it came from this one (and another)."""
        operands = [dict(d.about) for d in (self, other) if d is not None]
        return replace(self, vectors=vectors, about={"operation": how, "of": operands})

    def _joined(self, other: Direction, how: str, operate: Any) -> Direction:
        if not isinstance(other, Direction):
            return NotImplemented
        self._require_like(other)
        return self._from(operate(self.vectors, other.vectors), how, other)

    def _require_like(self, other: Direction) -> None:
        ours, theirs = self.model.get("weights_sha256"), other.model.get("weights_sha256")
        if ours != theirs or self.vectors.shape != other.vectors.shape:
            raise ValueError(
                f"one direction is of {_name(self)}, the other of {_name(other)}; expected two of the same weights. "
                "Fit both on one model."
            )

    def __repr__(self) -> str:
        n_rows, d_model = self.vectors.shape
        name = self.about.get("name", "")
        return f"Direction({name + ', ' if name else ''}{n_rows} x {d_model}, of {self.model.get('name')!r})"


@public
def load_direction(directory: str | Path) -> Direction:
    """The direction that :meth:`Direction.save` wrote, bit for bit.

    ``directory``: where. Raises ``FileNotFoundError``, and ``ValueError`` for one that was changed or damaged.
    """
    record, tensors = load_artefact(directory, "direction")
    with understood(Path(directory) / "direction.json"):
        return Direction(tensors["vectors"], dict(record["model"]), dict(record["about"]))


def random_direction(like: Direction, seed: int) -> Direction:
    """A control: rows drawn evenly from all directions (Gaussian), with the norms of ``like``."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(like.vectors.shape, dtype=torch.float32, generator=generator)
    about = {"name": f"random {seed}", "seed": seed, "norms_of": dict(like.about)}
    return replace(replace(like, vectors=drawn).scaled_to(like), about=about)


def mean_difference(
    above: Float[Tensor, "layer d_model"],
    below: Float[Tensor, "layer d_model"],
    model: Model,
    about: Mapping[str, Any] | None = None,
) -> Direction:
    """``above - below``, of the model's weights as they are now (which are hashed: about a second for each GB).

    A row that differs by no more than the rounding of float32 means (1e-6 of their norm) is zero: the embedding
    at a token that all prompts share, for one.

    Raises:
        ValueError: means of two shapes, or that are not finite.

    Cost: no pass; the weights are hashed.
    """
    above, below = (torch.as_tensor(mean).detach().to("cpu", torch.float64) for mean in (above, below))
    if above.shape != below.shape:
        raise ValueError(f"means have shapes {tuple(above.shape)} and {tuple(below.shape)}; expected the same.")
    difference = above - below
    norms = torch.maximum(above.norm(dim=-1), below.norm(dim=-1))
    difference[(difference.norm(dim=-1) <= _ROUNDING * norms) & norms.isfinite()] = 0.0
    return Direction(difference.float(), describe_model(model), about or {})


def _unit(vectors: Float[Tensor, "layer d_model"]) -> Float[Tensor, "layer d_model"]:
    """float64; zero rows stay zero."""
    exact = vectors.double()
    norms = exact.norm(dim=-1, keepdim=True)
    return exact / norms.where(norms > 0, torch.ones_like(norms))


def _name(direction: Direction) -> str:
    rows, d_model = direction.vectors.shape
    weights = str(direction.model.get("weights_sha256"))[:12]
    return f"{direction.model.get('name')!r} (weights {weights}, {rows} rows of {d_model})"

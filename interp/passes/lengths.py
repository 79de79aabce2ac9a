"""How the length of a pass enters a model's numbers, read from its config.

Most of a transformer knows only each token's own position. A few things are chosen once for the whole *pass*, by its
longest position or its number of columns: LongRoPE's short or long factors, dynamic NTK's base, Llama 4's attention
temperature (which counts columns, padding included). A prompt beside a longer one, or the beginning of a prompt run on
its own, then gets numbers that are not its own, and no error says so.

Sliding and chunked windows, yarn, Llama 3's rotary scaling or Ministral's temperature go by a token's own position:
they change nothing here, but their borders are where a check should look.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Any

# Rotary embeddings whose frequencies are fixed when the model is made. Any other kind is taken to go by the pass.
_FIXED_ROPES = frozenset([None, "default", "linear", "llama3", "yarn", "proportional", "mrope"])
_BORDER_NAMES = re.compile(r"window(?!_layers|_pattern)|chunk_size|original_max_position|floor_scale|local_attention")
_BY_LENGTH = re.compile(r"dynamic_ntk|log_?n(_|$)")  # switches of models that bring their own code (Qwen 1)


@dataclass(frozen=True)
class PassLengths:
    """What of a model goes by the length of the pass.

    ``borders``: passes of more tokens than one of these are computed otherwise than shorter ones. ``own_above``: above
    it, passes of each length are computed in a way of their own. ``columns_above``: passes of more columns than this
    count the padding on the left as positions. ``named``: every length at which the config says that something changes,
    also what goes by a token's own position: a window bites in prompts of more tokens.
    """

    borders: tuple[int, ...] = ()
    own_above: int | None = None
    columns_above: int | None = None
    named: tuple[int, ...] = ()

    def side(self, n_tokens: int) -> Hashable:
        """Equal for lengths whose passes are computed alike."""
        is_own = self.own_above is not None and n_tokens > self.own_above
        return (*(n_tokens > border for border in self.borders), n_tokens if is_own else None)

    def padded_side(self, n_tokens: int) -> Hashable:
        """The same, for prompts that are padded on the left to one length."""
        counts = self.columns_above is not None and n_tokens > self.columns_above
        return (self.side(n_tokens), n_tokens if counts else None)

    def is_steady(self, first: int, last: int) -> bool:
        """Whether a prompt may grow from ``first`` to ``last`` tokens without being computed in another way."""
        return self.side(first) == self.side(last)


def pass_lengths(config: Any) -> PassLengths:
    """Read a model's config, with its text config."""
    borders, named, own, columns = set(), set(), [], []
    for part in {id(c): c for c in (config, config.get_text_config())}.values():
        most = _int(getattr(part, "max_position_embeddings", None))
        for rope in _ropes(part):
            kind = rope.get("rope_type", rope.get("type"))
            original = _int(rope.get("original_max_position_embeddings"))
            original = original or _int(getattr(part, "original_max_position_embeddings", None))
            switches = {"short_factor", "long_factor", "short_mscale", "long_mscale"} & set(rope)
            if kind == "dynamic":
                own.append(most or 0)
            elif kind in ("longrope", "su") or (kind in _FIXED_ROPES and switches):
                borders |= {n for n in (original or most,) if n}
            elif kind not in _FIXED_ROPES:
                own.append(0)  # an unknown rule
            named |= {n for n in (original,) if n}
        for name, value in vars(part).items():
            if _BY_LENGTH.search(name) and value:
                own.append(0)
            if _BORDER_NAMES.search(name) and (n := _int(value)):
                named.add(n - 1 if name == "floor_scale" else n)
        if getattr(part, "attn_temperature_tuning", None) and (n := _int(getattr(part, "floor_scale", None))):
            columns.append(n - 1)
    own_above = min(own, default=None)
    columns_above = min(columns, default=None)
    found = {*named, *borders, *(n for n in (own_above, columns_above) if n)}
    return PassLengths(tuple(sorted(borders)), own_above, columns_above, tuple(sorted(found)))


def context_length(config: Any) -> int | None:
    """The longest prompt in tokens, where the config says so. Dynamic NTK reads on, by its factor."""
    config = config.get_text_config()
    names = ("max_position_embeddings", "n_positions", "max_seq_len")  # the last is MPT's
    most = next((n for name in names if (n := getattr(config, name, None))), None)
    factors = [rope.get("factor") or 1 for rope in _ropes(config) if rope.get("rope_type") == "dynamic"]
    return int(most * min(factors)) if most and factors else most


def around_borders(lengths: list[int], named: tuple[int, ...]) -> list[int]:
    """Which of some prompts a check should look at, by their lengths: the first, the shortest, the longest, and on each
    side of each border the shortest and the longest that are there."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    chosen = {0, order[0], order[-1]}
    for border in named:
        below = [i for i in order if lengths[i] <= border]
        above = [i for i in order if lengths[i] > border]
        chosen |= {i for side in (below, above) if side for i in (side[0], side[-1])}
    return sorted(chosen)


def _ropes(config: Any) -> Iterator[dict[str, Any]]:
    """The rotary settings of a config, of each kind of layer where they differ."""
    for name, value in vars(config).items():
        if "rope" in name and isinstance(value, dict):
            nested = [v for v in value.values() if isinstance(v, dict)]
            yield from nested or [value]


def _int(value: Any) -> int | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return int(value) if is_number and value > 0 else None

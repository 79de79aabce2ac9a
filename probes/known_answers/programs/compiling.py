"""Compile the programs to the weights of a GPT-2: ``python -m probes.known_answers.programs.compiling``.

Needs an environment of its own, outside this repository: ``pip install tracr-pypi safetensors jaxtyping``. What it
writes is shipped beside this file; nothing else here needs JAX.

Tracr (Lindner et al. 2023, arXiv 2301.05062) gives a transformer without norms, with heads of any size. To make a GPT-2
of it, which divides by a standard deviation at the entrance of every layer:

- two coordinates hold +K and -K at every position, so that the deviation is K sqrt(2 / d) but for a part in fifty
  thousand, and the norm's gain multiplies by that;
- one coordinate holds minus the sum of the others, so that the mean is 0: all that writes to the stream writes it too;
- free head slots are filled with busy heads: they attend by tokens and places, and write to four coordinates that
  nothing reads.

Weights are nearly all 0; the others are stored with their places.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from probes.known_answers.programs.listing import PROGRAMS
from probes.known_answers.programs.rasp import Indices, Map, Node, Program, Tokens, Zip

DATA = Path(__file__).parent / "data"
BOS = "BOS"
K = 512.0
N_SPARE, N_UNREAD = 2, 4
LOGIT = 6.0  # what the answer's logit is above the others'


def compile_program(program: Program) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """GPT-2's tensors by name, and the card: sizes, vocabulary, heads."""
    from tracr.compiler import compiling  # pyright: ignore[reportMissingImports]

    made = compiling.compile_rasp_to_model(
        _to_tracr(program.output, {}), set(program.vocabulary), program.length, compiler_bos=BOS, causal=program.causal
    )
    params = {name: {k: np.asarray(v, np.float64) for k, v in p.items()} for name, p in made.params.items()}
    sizes, labels = made.model_config, list(made.residual_labels)
    compiled = _used_heads(program, params, sizes, labels)
    n_heads = max(max(head for _, head in compiled.values()) + 1 + N_SPARE, 4)
    rng = np.random.default_rng([*program.name.encode()])
    slots = [rng.permutation(n_heads) for _ in range(sizes.num_layers)]
    used = {name: (layer, int(slots[layer][head])) for name, (layer, head) in compiled.items()}
    width = len(labels) + N_UNREAD + 3
    d_head = max(int(sizes.key_size) + 1, -(-width // n_heads))  # one place more: a backup head needs it
    stream = _Stream(n_heads * d_head, width)

    outputs = {str(v): i for v, i in made.output_encoder.encoding_map.items()}
    inputs = {t: i for t, i in made.input_encoder.encoding_map.items() if t != "compiler_pad"}
    vocabulary = [BOS, *program.vocabulary, *(f"={value}" for value in outputs)]
    tensors = {
        "transformer.wte.weight": stream.written(
            [params["token_embed"]["embeddings"][inputs[t]] if t in inputs else [0.0] for t in vocabulary]
        ),
        "transformer.wpe.weight": stream.constants(stream.written(params["pos_embed"]["embeddings"])),
        "lm_head.weight": np.zeros((len(vocabulary), stream.d_model)),
    }
    for value in outputs:
        (place,) = (
            k for k, at in enumerate(labels) if at.startswith(_named(program.output)) and at.endswith(f":{value}")
        )
        tensors["lm_head.weight"][vocabulary.index(f"={value}"), place] = LOGIT
    for layer in range(sizes.num_layers):
        slot_of = {head: int(slots[layer][head]) for at, head in compiled.values() if at == layer}
        tensors |= _layer(params, layer, sizes, n_heads, d_head, stream, slot_of, rng, labels)
    for name in [f"transformer.h.{i}.ln_{k}" for i in range(sizes.num_layers) for k in (1, 2)] + ["transformer.ln_f"]:
        tensors[f"{name}.weight"] = np.full(stream.d_model, K * np.sqrt(2 / stream.d_model))
    card = {
        "program": program.name,
        "question": program.question,
        "causal": program.causal,
        "vocabulary": vocabulary,
        "heads": {name: list(head) for name, head in used.items()},
        "n_layers": int(sizes.num_layers),
        "n_heads": n_heads,
        "d_head": d_head,
        "d_ff": int(sizes.mlp_hidden_size),
        "n_positions": program.length + 1,
        "coordinates": labels,
        "licence": "Apache-2.0",
    }
    return tensors, card


class _Stream:
    """The residual stream: the program's coordinates, those that nothing reads, minus their sum, +K and -K, zeros."""

    def __init__(self, d_model: int, width: int) -> None:
        self.d_model, self.balance = d_model, width - 3

    def written(self, rows: Any) -> np.ndarray:
        """What is written to the stream, with minus its sum."""
        out = np.zeros((len(rows), self.d_model))
        for row, values in zip(out, rows, strict=True):
            row[: len(values)] = values
            row[self.balance] = -np.sum(values)
        return out

    def constants(self, rows: np.ndarray) -> np.ndarray:
        rows[:, self.balance + 1], rows[:, self.balance + 2] = K, -K
        return rows


def _layer(params, layer, sizes, n_heads, d_head, stream, slot_of, rng, labels) -> dict[str, np.ndarray]:
    n_labels = len(labels)
    attention = {name: params[f"transformer/layer_{layer}/attn/{name}"]["w"] for name in ("query", "key", "value")}
    out = params[f"transformer/layer_{layer}/attn/linear"]["w"].reshape(sizes.num_heads, sizes.key_size, -1)
    by_name = {n: w.reshape(n_labels, sizes.num_heads, sizes.key_size) for n, w in attention.items()}
    qkv = np.zeros((3, stream.d_model, n_heads, d_head))
    write = np.zeros((n_heads, d_head, stream.d_model))
    busy = [i for i, label in enumerate(labels) if label.startswith(("tokens", "indices"))]
    for head, slot in slot_of.items():
        qkv[0, :n_labels, slot, : sizes.key_size] = by_name["query"][:, head] * np.sqrt(d_head / sizes.key_size)
        qkv[1, :n_labels, slot, : sizes.key_size] = by_name["key"][:, head]
        qkv[2, :n_labels, slot, : sizes.key_size] = by_name["value"][:, head]
        write[slot, : sizes.key_size] = stream.written(out[head])
    for head in sorted(set(range(n_heads)) - set(slot_of.values())):
        chosen = rng.choice(busy, size=(3, 6))
        for part in range(3):
            qkv[part, chosen[part], head, np.arange(6) % 4] = rng.normal(size=6) * (3 if part < 2 else 1)
        unread = np.zeros((4, n_labels + N_UNREAD))
        unread[:, n_labels:] = rng.normal(size=(4, N_UNREAD))
        write[head, :4] = stream.written(unread)
    mlp = {i: params[f"transformer/layer_{layer}/mlp/linear_{i}"] for i in (1, 2)}
    read = np.zeros((stream.d_model, sizes.mlp_hidden_size))
    read[:n_labels] = mlp[1]["w"]
    prefix = f"transformer.h.{layer}"
    return {
        f"{prefix}.attn.c_attn.weight": qkv.transpose(1, 0, 2, 3).reshape(stream.d_model, -1),
        f"{prefix}.attn.c_proj.weight": write.reshape(-1, stream.d_model),
        f"{prefix}.mlp.c_fc.weight": read,
        f"{prefix}.mlp.c_fc.bias": mlp[1]["b"],
        f"{prefix}.mlp.c_proj.weight": stream.written(mlp[2]["w"]),
        f"{prefix}.mlp.c_proj.bias": stream.written([mlp[2]["b"]])[0],
    }


def _used_heads(program: Program, params, sizes, labels) -> dict[str, tuple[int, int]]:
    """Each of the program's heads -> (layer, head), by the name of the coordinates that it writes."""
    found: dict[str, tuple[int, int]] = {}
    for layer in range(sizes.num_layers):
        out = params[f"transformer/layer_{layer}/attn/linear"]["w"].reshape(sizes.num_heads, sizes.key_size, -1)
        for head in range(sizes.num_heads):
            names = {labels[i].partition(":")[0] for i in np.flatnonzero(np.abs(out[head]).sum(0))}
            if not names:
                continue
            (name,) = names
            own = [h.name for h in program.heads if _named(h) in name]
            assert len(set(own)) == 1, f"{program.name}: {name} of layer {layer} belongs to {own}"
            found[own[0]] = (layer, head)
    assert set(found) == {h.name for h in program.heads}, (program.name, found)
    return found


def _named(node: Node) -> str:
    """What it is called in Tracr, which adds to names: so that no name begins another."""
    return f"__{node.name}__"


def _to_tracr(node: Node, made: dict[str, Any]) -> Any:
    from tracr.rasp import rasp  # pyright: ignore[reportMissingImports]

    if isinstance(node, Tokens):
        return rasp.tokens
    if isinstance(node, Indices):
        return rasp.indices
    name = _named(node)
    if name in made:
        return made[name]
    if isinstance(node, Map):
        of, is_number = _to_tracr(node.of, made), node.name.startswith("is_")
        result = (rasp.numerical if is_number else rasp.categorical)(rasp.Map(node.f, of))
    elif isinstance(node, Zip):
        result = rasp.categorical(rasp.SequenceMap(node.f, _to_tracr(node.first, made), _to_tracr(node.second, made)))
    else:
        keys, queries = _to_tracr(node.keys, made), _to_tracr(node.queries, made)
        selector = rasp.Select(keys, queries, node.predicate)
        if node.gives == "width":
            result = rasp.categorical(rasp.SelectorWidth(selector))
        elif node.gives == "mean":
            result = rasp.numerical(rasp.Aggregate(selector, _to_tracr(node.values, made), default=0))
        else:
            result = rasp.categorical(rasp.Aggregate(selector, _to_tracr(node.values, made)))
    made[name] = result.named(name)
    return made[name]


def store(tensors: dict[str, np.ndarray], card: dict[str, Any], folder: Path = DATA) -> Path:
    """Numbers that are not 0 with their places, and the card."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    sparse: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        flat = tensor.astype(np.float32).ravel()
        places = np.flatnonzero(flat)
        sparse[f"{name}.places"], sparse[f"{name}.values"] = places.astype(np.int32), flat[places]
    path = folder / f"{card['program']}.safetensors"
    save_file(sparse, path)
    path.with_suffix(".json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    return path


def main() -> None:
    """Compile all programs."""
    for program in PROGRAMS.values():
        tensors, card = compile_program(program)
        path = store(tensors, card)
        print(program.name, card["n_layers"], card["n_heads"], card["d_head"], card["heads"], path.stat().st_size)


if __name__ == "__main__":
    main()

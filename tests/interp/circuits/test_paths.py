"""Path patching against TransformerLens, and graphs of circuits."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest
import torch

import interp
from interp.circuits import CircuitGraph, load_graph, patch_paths
from interp.locating.counting import counted
from tests.interp.locating.test_locate import PAIRS
from tests.tiny import tiny


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def model(request):
    return interp.load(tiny(request.param))


def by_transformer_lens(model, i, sender, receiver, part, pairs=PAIRS):
    """Two runs with hooks, the classical way: the sender patched and all else held, then the receiver's part."""
    bridge, clean, corrupt = model.bridge, pairs.clean[i], pairs.corrupt[i]
    ids = torch.tensor([clean.token_ids])
    _, own = bridge.run_with_cache(ids)
    _, other = bridge.run_with_cache(torch.tensor([corrupt.token_ids]))
    layer, head = sender
    held = {}

    def hold(name, tensor, hook):
        held_at = own[name].clone()
        if name == f"blocks.{layer}.attn.hook_z":
            held_at = split(held_at)
            held_at[:, :, head] = split(other[name])[:, :, head]
        return held_at.reshape(tensor.shape)

    def split(tensor):
        return tensor.reshape(*tensor.shape[:2], -1, model.d_head)

    def keep(tensor, hook):
        held["part"] = tensor.detach().clone()
        return tensor

    names = [f"blocks.{n}.{what}" for n in range(model.n_layers) for what in ("attn.hook_z", "hook_mlp_out")]
    hooks = [(name, partial(hold, name)) for name in names]
    right, wrong = (clean.answer_tokens(name)[0] for name in ("clean", "corrupt"))
    with torch.no_grad():
        if receiver is None:
            logits = bridge.run_with_hooks(ids, fwd_hooks=hooks)[0, -1]
            return float(logits[right] - logits[wrong])
        to_layer, to_head = receiver
        name = f"blocks.{to_layer}.attn.hook_{part}"
        bridge.run_with_hooks(ids, fwd_hooks=[*hooks, (name, keep)])

        def put(tensor, hook):
            tensor, new = split(tensor).clone(), split(held["part"])
            tensor[:, :, to_head] = new[:, :, to_head]
            return tensor.reshape(held["part"].shape)

        logits = bridge.run_with_hooks(ids, fwd_hooks=[(name, put)])[0, -1]
    return float(logits[right] - logits[wrong])


def test_paths_are_those_of_transformer_lens(model):
    senders, receivers = [(0, 1), (1, 2)], [(1, 0), (2, 3)]
    paths = patch_paths(model, PAIRS, senders, receivers)
    clean = interp.scan(model, PAIRS.clean, interp.ablate_each_head("zero"), check=0).clean
    grouped = model.n_heads != model.components.n_kv_heads
    for i in (0, 3):
        for s, sender in enumerate(senders):
            for r, receiver in enumerate(receivers):
                for p, part in enumerate("qkv"):
                    if sender[0] >= receiver[0]:
                        assert np.isnan(paths.effects[i, s, r, p])
                    elif part == "q" or not grouped:  # TransformerLens patches a key head for all that share it
                        value = by_transformer_lens(model, i, sender, receiver, part)
                        assert paths.effects[i, s, r, p] == pytest.approx(clean[i] - value, abs=1e-4)
            assert paths.to_logits[i, s] == pytest.approx(
                clean[i] - by_transformer_lens(model, i, sender, None, ""), abs=1e-4
            )


def test_paths_are_the_same_where_prompts_differ_late(model):
    """What both prompts share is read once; whole prompts that differ from the start give the same numbers."""
    from interp.pairs import PromptPairs

    shared = [5, 9, 11, 30, 2, 7]
    late = PromptPairs.from_token_ids([(*shared, 1, 2, 3)], [(*shared, 4, 2, 3)], [(20, 21)])
    senders, receivers = [(0, 1), (1, 2)], [(1, 0), (2, 3)]
    with counted(model) as cost:
        found = patch_paths(model, late, senders, receivers, check=3)
    assert cost.tokens and found.effects.shape == (1, 2, 2, 3)
    for s, sender in enumerate(senders):
        for r, receiver in enumerate(receivers):
            if sender[0] < receiver[0]:
                value = by_transformer_lens(model, 0, sender, receiver, "q", late)
                clean = interp.scan(model, late.clean, interp.ablate_each_head("zero"), check=0).clean[0]
                assert found.effects[0, s, r, 0] == pytest.approx(clean - value, abs=1e-4)


def test_all_paths_cost_a_fraction_of_two_runs_each(llama):
    """Classically two passes for each path; here a branch from the receiver's layer on, and a row for each sender."""
    heads = list(np.ndindex(llama.n_layers, llama.n_heads))
    with counted(llama) as cost:
        paths = patch_paths(llama, PAIRS[:1], heads)
    n_paths = int(np.isfinite(paths.effects).sum() + paths.to_logits.size)
    assert 2 * n_paths / cost.passes(llama, PAIRS.clean[:1]) > 4


def test_known_paths_are_found():
    """In a chain of hops each hop tells the next, by its queries; the first head tells all, by their keys."""
    from probes.known_answers import load_known

    known = load_known("two_hops")
    heads = known.heads
    paths = patch_paths(known.model, known.pairs(8), list(heads.values()))
    first = paths.to_frame().set_index(["sender", "receiver", "part"])["effect"].abs()
    names = {variable: f"L{layer}H{head}" for variable, (layer, head) in heads.items()}
    assert first[names["hop_1"], names["hop_2"], "q"] > 1 > 0.01 > first[names["hop_1"], names["hop_2"], "v"]
    assert first[names["previous"], names["hop_1"], "k"] > 1 > 0.01 > first[names["previous"], "logits", ""]
    assert CircuitGraph.from_paths(paths).heads == tuple(sorted(heads.values()))


def test_graphs_are_written_and_read(model, tmp_path):
    paths = patch_paths(model, PAIRS[:2], [(0, 1), (1, 2)], [(2, 3)])
    graph = CircuitGraph.from_paths(paths)
    path = graph.save(tmp_path / "importances.json")
    again = load_graph(path, model)
    assert again.edges == pytest.approx(graph.edges) and again.in_graph == graph.in_graph
    record = json.loads(path.read_text())
    assert record["edges"]["a0.h1->a2.h3<q>"]["in_graph"] in (True, False) and "logits" in record["nodes"]
    assert len(graph.plot().data) == len(graph.in_graph) + 1
    with pytest.raises(FileExistsError, match="exists"):
        graph.save(path)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"cfg": {"n_layers": 12, "n_heads": 12}}, "the graph of another model"),
        ({"cfg": {}}, "is no importances.json"),
        ({"edges": {"a0.h1=>a2.h3": {"score": 1}}}, "is no edge"),
        ({"edges": {"a0.h99->logits": {"score": 1}}}, "lacks"),
        ({"edges": {"a0.h1->logits": {"score": "much"}}}, "expected a finite number"),
    ],
)
def test_graphs_of_other_models_and_broken_ones_are_refused(llama, tmp_path, change, message):
    good = {"cfg": {"n_layers": llama.n_layers, "n_heads": llama.n_heads}, "edges": {"a0.h1->logits": {"score": 1.0}}}
    path = tmp_path / "importances.json"
    path.write_text(json.dumps(good))
    assert load_graph(path, llama).edges == {("a0.h1", "logits", ""): 1.0}
    path.write_text(json.dumps(good | change))
    with pytest.raises(ValueError, match=message):
        load_graph(path, llama)


def test_the_graph_of_a_model_of_another_name_is_refused(llama, tmp_path):
    graph = CircuitGraph({("a0.h1", "logits", ""): 1.0}, frozenset(), llama.n_layers, llama.n_heads, "another")
    path = graph.save(tmp_path / "importances.json")
    with pytest.raises(ValueError, match="is the graph of another; the model is"):
        load_graph(path, llama)
    assert load_graph(path).model == "another"


@pytest.mark.parametrize(
    "senders, message", [([], "0 senders"), ([(0, 1), (0, 1)], "2 senders, 1 different"), ([(99, 0)], "out of range")]
)
def test_heads_that_are_not_there_are_refused(llama, senders, message):
    with pytest.raises(ValueError, match=message):
        patch_paths(llama, PAIRS, senders)

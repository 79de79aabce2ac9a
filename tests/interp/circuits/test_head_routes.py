"""A head's effect by where it reads: against hooks of plain transformers, with attention spelled out."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

import interp
from interp.circuits import head_routes
from interp.circuits.routes import ELSEWHERE, ITSELF
from tests.tiny import tiny

M = 4


@pytest.fixture(scope="module", params=["llama", "gpt2", "qwen2", "gemma2"])
def model(request):
    return interp.load(tiny(request.param))


def prompts_of(model, n=2, length=9):
    rng = np.random.default_rng(5)
    ids = rng.integers(3, model.hf.config.vocab_size - 1, (n, length)).tolist()
    answers = {"A": [1], "B": [2]}
    return [interp.Prompt.from_token_ids(row, answers, id=str(i)) for i, row in enumerate(ids)]


def pieces(model, ids):
    """Attention weights [layer, head, pos, key] and values [layer, head, key, d_head] by plain calls."""
    seen = {}
    from interp.architecture.attention import attention_handler

    def look(call):
        n = call.query.shape[2]
        scores = call.query @ call.key.repeat_interleave(call.query.shape[1] // call.key.shape[1], 1).mT * call.scaling
        if call.softcap is not None:
            scores = call.softcap * torch.tanh(scores / call.softcap)
        allowed = torch.ones(n, n, dtype=torch.bool).tril() if call.mask is None else call.mask[0, 0]
        weights = scores.masked_fill(~allowed, -torch.inf).softmax(-1)
        seen[call.layer] = weights[0], call.value.repeat_interleave(call.query.shape[1] // call.value.shape[1], 1)[0]

    with torch.no_grad(), attention_handler(model, look):
        model.hf(torch.tensor([ids]))
    return seen


def by_hooks(model, prompt, layer, head, keys, source=None):
    """The logit difference with one head's part of some keys taken out at the last M positions, by a plain hook."""
    ids = list(prompt.token_ids)

    def part(ids):
        weights, values = pieces(model, ids)[layer]
        chosen = weights[head] * keys
        return (chosen @ values[head])[-M:]

    new = torch.zeros(M, model.d_head) if source is None else part(list(source.token_ids))
    change = new - part(ids)
    block = model.components.blocks[layer]

    def hook(module, args):
        z = args[0].clone()
        z[0, -M:, head * model.d_head : (head + 1) * model.d_head] += change
        return (z, *args[1:])

    handle = block.out_projection.register_forward_pre_hook(hook)
    with torch.no_grad():
        logits = model.hf(torch.tensor([ids])).logits[0, -1]
    handle.remove()
    return float(logits[1] - logits[2])


@pytest.mark.parametrize("with_sources", [False, True])
def test_routes_are_those_of_plain_hooks(model, with_sources):
    prompts = prompts_of(model)
    sources = prompts_of(model, 4)[2:] if with_sources else None
    groups = {"first": [(0, 1, 2)] * 2, "more": [(3, 7)] * 2}
    found = head_routes(model, prompts, groups, sources=sources, positions=M)
    assert found.routes == ("first", "more", ITSELF, ELSEWHERE) and found.replaced == with_sources
    n = len(prompts[0])
    itself = torch.eye(n)
    masks = {name: torch.zeros(n, n) for name in found.routes}
    for name, places in groups.items():
        masks[name][:, list(places[0])] = 1
        masks[name] *= 1 - itself
    masks[ITSELF] = itself
    masks[ELSEWHERE] = 1 - sum(masks[name] for name in ("first", "more", ITSELF))
    logits = model.final_logits(prompts)
    clean = (logits[:, 1] - logits[:, 2]).tolist()
    for i in range(2):
        for h in (0, 3, len(found.heads) - 1):
            slow = partial(by_hooks, model, prompts[i], *found.heads[h], source=sources and sources[i])
            for r, name in enumerate(found.routes):
                assert found.lost[i, r, h] == pytest.approx(clean[i] - slow(masks[name]), abs=2e-4)
            assert found.whole[i, h] == pytest.approx(clean[i] - slow(torch.ones(n, n)), abs=2e-4)


def test_all_routes_cut_is_the_zero_ablation(model):
    prompts = prompts_of(model)
    found = head_routes(model, prompts, {"first": [(0,), (1, 2)]}, positions="all")
    zero = interp.scan(model, prompts, interp.ablate_each_head("zero"), positions="all").drop
    np.testing.assert_allclose(found.whole, zero, atol=2e-4)
    np.testing.assert_allclose(found.attention.sum(1), 1.0, atol=1e-4)
    np.testing.assert_allclose(found.together(), found.whole - np.nansum(found.lost, 1))


def test_a_route_without_positions_is_not_a_number(model):
    (prompt, *_) = prompts_of(model)
    found = head_routes(model, [prompt], {"none": [()], "later": [(8,)]}, heads=[(0, 1)])
    assert np.isnan(found.lost[0, 0]).all()  # no such position
    assert np.isnan(found.lost[0, 1]).all()  # the answer's own: itself
    assert np.isfinite(found.lost[0, 2:]).all()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"groups": {}}, "at least one"),
        ({"groups": {"itself": [(0,)] * 2}}, "names of your own"),
        ({"groups": {"a": [(0,)]}}, "1 lists of positions for 2 prompts"),
        ({"groups": {"a": [(0,), (40,)]}}, "position 40"),
        ({"groups": {"a": [(0,), (1,)], "b": [(2,), (1,)]}}, "in two groups"),
        ({"heads": [(0, 0), (0, 0)]}, "each once"),
        ({"heads": [(0, 90)]}, "out of range"),
        ({"sources": "one"}, "1 sources for 2 prompts"),
        ({"sources": "short"}, "as many"),
    ],
)
def test_what_is_wrong_is_refused(model, changed, said):
    prompts = prompts_of(model)
    sources = {"one": prompts[:1], "short": prompts_of(model, 2, 8)}
    given = {"groups": {"a": [(0,)] * 2}} | changed
    if "sources" in given:
        given["sources"] = sources[given["sources"]]
    with pytest.raises(ValueError, match=said):
        head_routes(model, prompts, given.pop("groups"), **given)

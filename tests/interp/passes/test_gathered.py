"""Nothing waits for the device inside loops over layers, heads and prompts: waits are counted."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

import interp
from interp.passes import Gathered
from interp.reading import attention_log_probs, head_outputs, residual_states
from tests.tiny import tiny, tiny_tokenizer

WAITS = ("cpu", "item", "tolist", "__bool__", "__float__", "__int__", "__index__", "nonzero")
"""What asks a device for a number, and stands still until it is there."""


def test_what_is_gathered_is_what_was_put():
    """Of any shape and type, also in several copies; of a view the part alone is held."""
    base = torch.arange(24.0).reshape(4, 6)
    put = {"a": base[1, 2:4], "b": torch.tensor(3.5), ("c", 1): torch.zeros(0, 2), "d": base.T, "e": torch.tensor([7])}
    put["half"] = torch.ones(3, dtype=torch.bfloat16)
    for most in (1, 10**9):
        gathered = Gathered(most)
        for key, tensor in put.items():
            gathered.put(key, tensor)
        found = gathered.fetch()
        assert found.keys() == put.keys()
        for key, tensor in put.items():
            assert found[key].dtype == tensor.dtype and torch.equal(found[key], tensor), key
    gathered.put("part", big := torch.zeros(1000)[:1])
    ((_, held),) = gathered._there[big.device, big.dtype]
    assert held.untyped_storage().nbytes() == 4


@pytest.fixture
def waits(monkeypatch) -> Counter:
    """Counted from the moment that it is cleared."""
    counted: Counter = Counter()
    for name in WAITS:
        original = getattr(torch.Tensor, name)

        def counting(self, *args, name=name, original=original, **how):
            counted[name] += 1
            return original(self, *args, **how)

        monkeypatch.setattr(torch.Tensor, name, counting)
    return counted


READS = {
    "attention": lambda model, prompts: attention_log_probs(
        model, prompts, [range(4, 8)] * len(prompts), [[[1], [2, 3]]] * len(prompts)
    ),
    "head outputs": lambda model, prompts: head_outputs(model, prompts, 2, batch_size=len(prompts)),
    "states": lambda model, prompts: residual_states(model, prompts, [[3, 7]] * len(prompts), batch_size=len(prompts)),
    "scan": lambda model, prompts: interp.scan(model, prompts[:1], interp.ablate_each_head("zero"), check=0),
}


@pytest.mark.parametrize("name", READS)
@pytest.mark.filterwarnings("ignore")
def test_waits_do_not_grow_with_layers_heads_and_prompts_of_a_batch(waits, name):
    found = {}
    for size, layers, heads, n in (("small", 2, 2, 2), ("large", 4, 8, 6)):
        shape = {"num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": heads}
        model = interp.load(tiny("llama", vocab_size=400, **shape), tokenizer=tiny_tokenizer())
        prompts = [
            interp.Prompt.from_token_ids(list(range(5 + i, 14 + i)), answers={"a": [7], "b": [8]}) for i in range(n)
        ]
        READS[name](model, prompts)  # what is measured once a model
        waits.clear()
        READS[name](model, prompts)
        found[size] = sum(waits.values())
    assert found["large"] <= found["small"] <= 8, found


@pytest.mark.filterwarnings("ignore")
def test_kernels_do_not_grow_with_heads():
    """Operations that PyTorch's profiler counts in a scan of one prompt: as many for 8 heads a layer as for 2, and for
    each further prompt at most those of the first."""

    def operations(heads: int, n_prompts: int) -> int:
        shape = {"num_hidden_layers": 2, "num_attention_heads": heads, "num_key_value_heads": 2}
        model = interp.load(tiny("llama", vocab_size=400, **shape), tokenizer=tiny_tokenizer())
        prompts = [
            interp.Prompt.from_token_ids(list(range(5 + i, 14 + i)), answers={"a": [7], "b": [8]}) for i in range(4)
        ]
        edits = interp.ablate_each_head("zero")
        interp.scan(model, prompts, edits, check=0)  # what is made once a model
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
            interp.scan(model, prompts[:n_prompts], edits, check=0)
        return sum(event.count for event in seen.key_averages() if event.key.startswith("aten::"))

    few, many = operations(2, 1), operations(8, 1)
    assert many <= 1.1 * few
    assert operations(2, 2) <= 2 * few

"""`python -m tests.benchmarks.device`: scans on this machine's device, for a few minutes of a GPU; small on a CPU.

Prints equality with the CPU (float32 within 1e-4), the time of a scan of all heads of a random Llama beside one dense
batch of as many token-forwards, and peak memory. Of 7B shape (1,024 heads, 100 prompts of 113 tokens, bfloat16) on a
GPU; of a tiny shape on a CPU, where it only shows that the script runs.
"""

from __future__ import annotations

import time
import warnings

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import interp
from interp.machine import ModelShape

SEVEN_B = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "intermediate_size": 11008,
    "vocab_size": 32000,
}
TINY = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "intermediate_size": 128,
    "vocab_size": 500,
}
TOKENS, ROWS = 113, 8192
"""Tokens of a prompt; and of a dense batch, which is repeated until it has done the scan's token-forwards."""


def random_llama(shape: dict[str, int], device: str, dtype: torch.dtype) -> LlamaForCausalLM:
    """With random weights, made where it is to be."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return LlamaForCausalLM(LlamaConfig(**shape)).eval()
    finally:
        torch.set_default_dtype(before)


def prompts_of(n: int, vocabulary: int) -> list[interp.Prompt]:
    """Random ones, which share nothing."""
    ids = torch.randint(3, vocabulary, (n, TOKENS), generator=torch.Generator().manual_seed(0)).tolist()
    return [interp.Prompt.from_token_ids(row, answers={"a": [7], "b": [8]}, id=str(i)) for i, row in enumerate(ids)]


def wait(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


@torch.no_grad()
def main() -> None:
    warnings.simplefilter("ignore")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    zero = interp.ablate_each_head("zero")
    small, few = random_llama(TINY, "cpu", torch.float32), prompts_of(4, TINY["vocab_size"])
    here = interp.scan(interp.load(small), few, zero).values
    there = interp.scan(interp.load(small.to(device)), few, zero).values
    print(f"{device} and cpu, float32: largest difference {abs(here - there).max():.1e} logits (expected below 1e-4)")

    shape, n = (SEVEN_B, 100) if device == "cuda" else (TINY, 10)
    model = interp.load(random_llama(shape, device, torch.bfloat16 if device == "cuda" else torch.float32))
    prompts, of_shape = prompts_of(n, shape["vocab_size"]), ModelShape.of(model)
    began = wait(device)
    checked = interp.scan(model, prompts[:1], zero)
    print(f"checks: {wait(device) - began:.2f} s; {checked.how}; {checked.check}")
    began = wait(device)
    interp.scan(model, prompts, zero, check=0)
    scan = wait(device) - began
    ids = torch.randint(3, shape["vocab_size"], (ROWS // TOKENS, TOKENS), device=device)
    model.hf(ids, use_cache=False, logits_to_keep=1)
    began = wait(device)
    model.hf(ids, use_cache=False, logits_to_keep=1)
    dense = (wait(device) - began) * n * of_shape.scan_tokens(TOKENS) / ids.numel()
    print(f"{n} prompts, {model.n_layers * model.n_heads} heads: {scan:.2f} s; as one dense batch {dense:.2f} s")
    print(f"ratio {scan / dense:.2f} (expected on a GPU: at most 2)")
    if device == "cuda":
        print(f"peak memory {torch.cuda.max_memory_allocated() / 1e9:.1f} GB")


if __name__ == "__main__":
    main()

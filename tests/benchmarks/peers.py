"""`python -m tests.benchmarks.peers [MODEL]`: what the effect of every head costs here, and by other ways.

CPU time of one thread (`time.process_time`), contestants interleaved round by round, medians. The unit is a plain pass:
the logits of the last position, no gradients, fused attention. The strongest peer is :func:`cached_rows`, ten lines of
plain transformers: the prompt's beginning cached, all heads as rows of one batch. Loops are run on every tenth head
and multiplied. nnsight is among them where it can be imported (it is no dependency).

Writes MODEL's rows of peers.json beside this file, and peers.md from all of it. SmolLM2 takes about six minutes.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from transformer_lens import patching
from transformer_lens.tools.analysis.attribution_patching import attribution_patch
from transformers import DynamicCache

import interp
from interp.interventions import Branch, HeadEdit
from interp.machine import ModelShape, mean_tokens
from interp.prompts.prompt import Prompt
from interp.scans import checked
from probes import negative_bias
from probes.negative_bias.nas import rank_by_effect
from probes.questions.instructions import Instruction, build_prompts
from probes.questions.questions import Question, load_questions

HERE = Path(__file__).parent
EVERY = 10  # loops are timed on every tenth head and multiplied by ten
LENGTHS, ROUNDS = (56, 113, 500), 3
N_QUESTIONS = 30
ROW_TOKENS = 32_000  # keys of the peer's rows, all together, in a batch: as many as fit beside other work
FILLER = "The kettle stands on the stove and the window is open. "
UNIT = "plain pass"
Runs = dict[str, tuple[Callable[[], object], float]]
"""By name: what is run, and by how much its time is multiplied."""


def prompt_of(model: interp.Model, n_tokens: int, question: Question) -> Prompt:
    """A yes/no prompt of exactly ``n_tokens``, made long by neutral sentences before the instruction."""
    words = (FILLER * (n_tokens // 8 + 2)).split()
    layout = "{filler}{instruction}\n{context}Question: {question}"
    for n_words in range(n_tokens):
        filler = " ".join(words[:n_words]) + ("\n" if n_words else "")
        instruction = Instruction(layout=layout.replace("{filler}", filler))
        (prompt,) = build_prompts(model, [question], instruction)
        if len(prompt) == n_tokens:
            return prompt
        if len(prompt) > n_tokens:
            break
    raise ValueError(f"no filler gives a prompt of {n_tokens} tokens; it went to {len(prompt)}.")


def pair_of(model: interp.Model, n_tokens: int) -> tuple[Prompt, Prompt]:
    """Two prompts of the same length with different questions: the first two of the shipped set that fit."""
    found: list[Prompt] = []
    for question in load_questions():
        try:
            found.append(prompt_of(model, n_tokens, question))
        except ValueError:
            continue
        if len(found) == 2:
            return found[0], found[1]
    raise ValueError(f"the shipped questions give no two prompts of {n_tokens} tokens.")


@torch.no_grad()
def cached_rows(model: interp.Model, prompt: Prompt) -> Tensor:
    """The peer: every head zeroed at the last position, [head], by plain transformers with the rest cached."""
    hf, d_head, heads = model.hf, model.d_head, model.n_layers * model.n_heads
    ids, cache = torch.tensor([prompt.token_ids]), DynamicCache()
    hf(ids[:, :-1], past_key_values=cache, logits_to_keep=1)
    size, values = max(1, min(heads, ROW_TOKENS // len(prompt))), []
    for start in range(0, heads, size):
        rows = range(start, min(start + size, heads))
        copy = DynamicCache(
            [(k.keys.expand(len(rows), -1, -1, -1), k.values.expand(len(rows), -1, -1, -1)) for k in cache.layers]
        )

        def zero(module: Any, args: tuple[Tensor], layer: int, rows: range = rows) -> tuple[Tensor]:
            for row, head in enumerate(rows):
                if head // model.n_heads == layer:
                    args[0][row, -1, head % model.n_heads * d_head : (head % model.n_heads + 1) * d_head] = 0
            return args

        hooks = [
            b.self_attn.o_proj.register_forward_pre_hook(partial(zero, layer=i)) for i, b in enumerate(hf.model.layers)
        ]
        logits = hf(ids[:, -1:].expand(len(rows), -1), past_key_values=copy, logits_to_keep=1).logits[:, -1]
        values.append(logits[:, prompt.answers["No"][0]] - logits[:, prompt.answers["Yes"][0]])
        for hook in hooks:
            hook.remove()
    return torch.cat(values)


def of_one_prompt(model: interp.Model, n_tokens: int) -> Runs:
    """Ways to the effects of all heads on one prompt."""
    prompt, source = pair_of(model, n_tokens)
    ids, source_ids = torch.tensor([prompt.token_ids]), torch.tensor([source.token_ids])
    no, yes = prompt.answers["No"][0], prompt.answers["Yes"][0]
    heads = [(layer, head) for layer in range(model.n_layers) for head in range(model.n_heads)]
    few = heads[::EVERY]
    some = [Branch((HeadEdit(*head),)) for head in few]

    def metric(logits: Tensor) -> Tensor:
        return logits[0, -1, no] - logits[0, -1, yes]

    def lens_loop() -> None:
        for layer, head in few:

            def zero(z: Tensor, hook: object, head: int = head) -> Tensor:
                z[:, -1, head] = 0
                return z

            metric(model.bridge.run_with_hooks(ids, fwd_hooks=[(f"blocks.{layer}.attn.hook_z", zero)]))

    def lens_patching() -> None:
        _, cache = model.bridge.run_with_cache(source_ids, names_filter=lambda n: n.endswith("hook_z"))
        table = pd.DataFrame(few, columns=["layer", "head"])
        setter = patching.layer_head_vector_patch_setter
        patching.generic_activation_patch(model.bridge, ids, cache, metric, setter, "z", index_df=table)

    def lens_attribution() -> object:
        with torch.enable_grad():
            return attribution_patch(model.bridge, source_ids, ids, metric)

    zero, mean, patch = (
        interp.ablate_each_head("zero"),
        interp.ablate_each_head("mean_of_others"),
        interp.patch_each_head([source]),
    )
    scan = partial(interp.scan, model, [prompt])
    runs: Runs = {
        UNIT: (lambda: model.hf(ids, use_cache=False, logits_to_keep=1), 1),
        "plain pass, all logits": (lambda: model.hf(ids, use_cache=False), 1),
        "scan, zero, answer, unchecked": (partial(scan, zero, check=0), 1),
        "scan, zero, answer": (lambda: checked_anew(model, partial(scan, zero)), 1),
        "scan, mean of others, answer": (partial(scan, mean), 1),
        "scan, patch, answer": (partial(scan, patch), 1),
        "scan, zero, last 10": (partial(scan, zero, positions=10), 1),
        "peer: prefix cached, all heads as rows": (partial(cached_rows, model, prompt), 1),
        "scan, zero, all positions": (partial(scan, some, positions="all", check=0, method="fan-out"), EVERY),
        "TransformerLens loop, zero": (lens_loop, EVERY),
        "TransformerLens patching, all positions": (lens_patching, EVERY),
        "TransformerLens attribution patching (estimate)": (lens_attribution, 1),
    }
    return runs | _nnsight(model, ids, few)


def _nnsight(model: interp.Model, ids: Tensor, heads: Sequence[tuple[int, int]]) -> Runs:
    """A trace for each head, and all heads as invokes of one trace."""
    try:
        from nnsight import LanguageModel, NNsight
    except ImportError:
        return {}
    one, several, d = NNsight(model.hf), LanguageModel(model.hf, tokenizer=model.tokenizer), model.d_head

    def traces() -> None:
        for layer, head in heads:
            with torch.no_grad(), one.trace(ids, use_cache=False, logits_to_keep=1):
                one.model.layers[layer].self_attn.o_proj.input[:, -1, head * d : (head + 1) * d] = 0
                one.lm_head.output[:, -1].save()

    def invokes() -> None:
        with torch.no_grad(), several.trace(use_cache=False) as tracer:
            for layer, head in heads:
                with tracer.invoke(ids[0].tolist()):
                    several.model.layers[layer].self_attn.o_proj.input[:, -1, head * d : (head + 1) * d] = 0
                    several.lm_head.output[:, -1].save()

    return {"nnsight, a trace a head, zero": (traces, EVERY), "nnsight, invokes of one trace, zero": (invokes, EVERY)}


def of_questions(model: interp.Model) -> Runs:
    """Ways to the effects of all heads on each of the first shipped questions; times are for a question."""
    questions = load_questions()[:N_QUESTIONS]
    prompts = build_prompts(model, questions, Instruction())
    zero, share = interp.ablate_each_head("zero"), 1 / len(prompts)
    ids = [torch.tensor([p.token_ids]) for p in prompts]
    return {
        UNIT: (lambda: [model.hf(i, use_cache=False, logits_to_keep=1) for i in ids], share),
        "peer: prefix cached, all heads as rows": (lambda: [cached_rows(model, p) for p in prompts], share),
        "scan, zero, answer, unchecked": (lambda: interp.scan(model, prompts, zero, check=0), share),
        "scan, zero, answer": (lambda: checked_anew(model, lambda: interp.scan(model, prompts, zero)), share),
        "rank_heads": (lambda: negative_bias.rank_heads(model, questions, n_views=0), share),
        "rank_by_effect": (lambda: rank_by_effect(model, questions, n_views=0), share),
    }


def checked_anew(model: interp.Model, run: Callable[[], object]) -> None:
    """A scan as on a model that none was checked on."""
    checked.forget(model)
    run()


ONCE = ("nnsight", "TransformerLens", "scan, zero, all positions")
"""What is dear is run in the last round alone."""


@torch.no_grad()
def seconds_of(runs: Runs, rounds: int = ROUNDS) -> dict[str, float]:
    """CPU seconds, the median of the rounds."""
    took: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(rounds):
        for name, (run, factor) in runs.items():
            if name.startswith(ONCE) and round_ < rounds - 1:
                continue
            if round_ == 0 and factor == 1:
                run()  # what is found out once a model
            began = time.process_time()
            run()
            took[name].append((time.process_time() - began) * factor)
            print(f"  {name}: {took[name][-1]:.2f} s", file=sys.stderr, flush=True)
    return {name: statistics.median(times) for name, times in took.items()}


def agreement_of_peer(model: interp.Model) -> float:
    """The largest difference of the peer's numbers from the scan's, in logits."""
    (prompt,) = build_prompts(model, load_questions()[:1], Instruction())
    ours = interp.scan(model, [prompt], interp.ablate_each_head("zero"), check=0)
    return float(abs(cached_rows(model, prompt).numpy() - ours.values[0]).max())


def measure(name: str) -> dict[str, Any]:
    """All of one model."""
    model = interp.load(name)
    shape = ModelShape.of(model)
    mean = mean_tokens(build_prompts(model, load_questions()[:N_QUESTIONS], Instruction()), most=N_QUESTIONS)
    found: dict[str, Any] = {"peer differs": agreement_of_peer(model), "heads": model.n_layers * model.n_heads}
    found["questions"] = {
        "tokens": mean,
        "predicted": shape.scan_passes(mean),
        "seconds": seconds_of(of_questions(model), 1),
    }
    for n in LENGTHS:
        predicted = {str(last): shape.scan_passes(n, last) for last in (1, 10, None)}
        found[str(n)] = {
            "predicted": predicted,
            "seconds": seconds_of(of_one_prompt(model, n), ROUNDS if n < 500 else 1),
        }
    return found


def page(everything: dict[str, Any]) -> str:
    """The Markdown page."""
    out = [
        "Made by `python -m tests.benchmarks.peers MODEL`. CPU time of one thread, float32. A plain pass gives the",
        f"logits of the last position, without gradients, with fused attention. Loops ran on every {EVERY}th head, and",
        "were multiplied; they and the 30 questions ran once, the rest is a median of three (one at 500 tokens). The",
        "scan of questions with its check is one on a model that none was checked on: later ones cost no check.",
        "What is blank was not run.",
        "",
    ]  # fmt: skip
    for name, found in everything.items():
        predicted = found["questions"]["predicted"]
        tokens, differs = found["questions"]["tokens"], found["peer differs"]
        out += [f"## {name}, a question", ""]
        out += [
            f"{N_QUESTIONS} shipped questions of {tokens:.1f} tokens on average, {found['heads']} heads zeroed at the",
            f"answer. By its count of tokens a scan takes {predicted:.2f} plain passes. The peer's numbers differ by",
            f"at most {differs:.1g} logits from the scan's.",
            "",
            *_rows({"a question": found["questions"]["seconds"]}),
            "",
        ]
        lengths = {f"{n} tokens": found[str(n)]["seconds"] for n in LENGTHS if str(n) in found}
        counts = "; ".join(
            f"{n} tokens: {p['1']:.2f} at the answer, {p['10']:.2f} at the last 10, {p['None']:.0f} at all"
            for n, p in ((n, found[str(n)]["predicted"]) for n in LENGTHS if str(n) in found)
        )
        out += [
            f"## {name}, one prompt",
            "",
            f"By its count of tokens an unchecked scan takes, in plain passes: {counts}.",
            "",
        ]
        out += [*_rows(lengths), ""]
        out += [found["note"], ""] if "note" in found else []
    return "\n".join(out)


def _rows(tables: dict[str, dict[str, float]]) -> list[str]:
    names = list(dict.fromkeys(name for table in tables.values() for name in table))
    out = [
        "| | " + " | ".join(f"{n}: s | {n}: plain passes" for n in tables) + " |",
        "|---|" + "---:|---:|" * len(tables),
    ]
    for name in names:
        cells = [f"{t[name]:.2f} | {t[name] / t[UNIT]:.1f}" if name in t else " | " for t in tables.values()]
        out.append(f"| {name} | " + " | ".join(cells) + " |")
    return out


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    kept = HERE / "peers.json"
    everything = json.loads(kept.read_text()) if kept.exists() else {}
    for name in sys.argv[1:] or ["smollm2-135m"]:
        everything[name] = measure(name)
        kept.write_text(json.dumps(everything, indent=1) + "\n")
        (HERE / "peers.md").write_text(page(everything))
    print(page(everything))


if __name__ == "__main__":
    main()

"""One model, several threads: each gets the numbers that it gets alone."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from joblib import Parallel, delayed

import interp
from interp.architecture.hooks import HookNotCalled
from interp.architecture.turns import ModelInUse, alone, turn_of
from interp.reading.capture import attention_log_probs, head_outputs
from interp.reading.generation import generate
from interp.reading.residual import residual_states
from tests.tiny import prompt, tiny, tiny_tokenizer

ZERO = interp.ablate_each_head("zero")
PROMPTS = [[prompt(7 + 3 * i, seed=10 * i + j) for j in range(2)] for i in range(4)]
IDS = torch.tensor([prompt(9).token_ids])


@pytest.fixture(scope="module")
def model():
    return interp.load(tiny("llama", num_hidden_layers=3))


def steering(model, size: float, **options):
    direction = interp.Direction.from_tensors(torch.ones(model.n_layers + 1, model.d_model), model)
    return interp.add_direction(direction, size, while_generating=True, **options)


def steered(model, size: float) -> torch.Tensor:
    with steering(model, size).apply(model), torch.no_grad():
        return model.hf(IDS).logits[0, -1]


def bare(model) -> torch.Tensor:
    """Not through this package: it waits for nobody."""
    with torch.no_grad():
        return model.hf(IDS).logits[0, -1]


def all_of(model) -> list:
    """Everything at once: scans, captures, steered and unsteered logits of the package and of the bare model."""
    jobs = [lambda p=p: interp.scan(model, p, ZERO).values for p in PROMPTS]
    jobs += [lambda s=s: steered(model, s) for s in (-3.0, 0.5, 2.0)]
    jobs += [lambda p=p: model.final_logits(p) for p in PROMPTS[:2]]
    jobs += [lambda: interp.scan(model, PROMPTS[1], ZERO, method="loop").values]
    jobs += [lambda: residual_states(model, PROMPTS[0], [[1, 3]] * 2), lambda: head_outputs(model, PROMPTS[2])[1]]
    jobs += [lambda: attention_log_probs(model, PROMPTS[3][:1], [[5]], [[[0], [2]]])[0]]
    return jobs


def same(found, alone_) -> None:
    for a, b in zip(found, alone_, strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=2e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def by_itself(model):
    return [job() for job in all_of(model)]


def test_in_plain_threads(model, by_itself):
    jobs, found = all_of(model), {}

    def work(mine: list[int]) -> None:
        for i in mine:
            found[i] = jobs[i]()

    threads = [threading.Thread(target=work, args=(range(start, len(jobs), 4),)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    same([found[i] for i in range(len(jobs))], by_itself)


def test_in_asyncios_executor(model, by_itself):
    async def main():
        loop = asyncio.get_running_loop()
        return await asyncio.gather(*(loop.run_in_executor(None, job) for job in all_of(model)))

    same(asyncio.run(main()), by_itself)


def test_in_joblibs_threads(model, by_itself):
    same(Parallel(n_jobs=4, backend="threading")(delayed(job)() for job in all_of(model)), by_itself)


def test_two_models_of_one_transformers_model_take_one_turn(model, by_itself):
    other = interp.load(model.hf)
    assert turn_of(other.hf) is turn_of(model.hf)
    jobs = [job for pair in zip(all_of(model), all_of(other), strict=True) for job in pair]
    with ThreadPoolExecutor(4) as pool:
        found = [f.result() for f in [pool.submit(job) for job in jobs]]
    same(found[::2], by_itself)
    same(found[1::2], by_itself)


def test_what_is_asked_inside_another_threads_block_waits_and_a_bare_pass_is_unedited(model):
    clean, expected = bare(model), model.final_logits(PROMPTS[0])
    inside, asked, order = threading.Event(), threading.Event(), []

    def other():
        inside.wait()
        plain = bare(model)
        asked.set()
        logits = model.final_logits(PROMPTS[0])
        order.append("asked")
        return plain, logits

    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(other)
        with steering(model, 4.0).apply(model):
            assert (bare(model) - clean).abs().max() > 1e-2
            inside.set()
            asked.wait()
            order.append("block")
        plain, logits = answer.result()
    assert order == ["block", "asked"]
    torch.testing.assert_close(plain, clean)
    torch.testing.assert_close(logits, expected)


def test_passes_that_ran_in_other_threads_alone_were_not_edited_and_the_block_says_so(model):
    refused = pytest.raises(HookNotCalled, match="not in the one that opened it")
    with ThreadPoolExecutor(1) as pool, refused, steering(model, 4.0).apply(model):
        pool.submit(bare, model).result()


def test_generation_and_tuning_beside_each_other():
    from interp.fitting.tuning import HeadTuner, ReplyTuner

    model = interp.load(tiny("llama", num_hidden_layers=3, vocab_size=400), tokenizer=tiny_tokenizer())
    asked = [model.prompt(text, answers=("No", "Yes"), gold="Yes") for text in ("Is the sky blue?", "Can it do so?")]
    taught = [model.prompt("Is the sky blue?", reply="Yes or No.")]

    def tuned():
        tuner = HeadTuner(model, 1, 2, asked, learning_rate=1e-2)
        for _ in range(3):
            tuner.step([0, 1])
        return tuner.rows[0].weight

    def replies():
        with ReplyTuner(model, taught, learning_rate=1e-2, rank=2) as tuner:
            tuner.step([0])
            return torch.tensor(tuner.loss())

    def written():
        text = " | ".join(reply[0] for reply in generate(model, asked, 6))
        return torch.tensor([*text.encode(), *[0] * 200][:200])

    def scaled():
        with interp.ScaledHeads({}, {}, {(0, 1): 0.0}).apply(model):
            return model.final_logits(asked)

    jobs = [tuned, replies, written, scaled, lambda: model.final_logits(asked)]
    alone_ = [job() for job in jobs]
    with ThreadPoolExecutor(4) as pool:
        found = [f.result() for f in [pool.submit(job) for _ in range(2) for job in jobs]]
    same(found[:5], alone_)
    same(found[5:], alone_)
    assert turn_of(model.hf).owner is None


def test_a_ring_of_waiting_threads_is_refused():
    first, second = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    both, refused = threading.Barrier(2), []

    def take(one, other):
        with alone(one):
            both.wait()
            try:
                with alone(other):
                    pass
            except ModelInUse as error:
                refused.append(str(error))

    threads = [threading.Thread(target=take, args=pair) for pair in ((first, second), (second, first))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert not any(thread.is_alive() for thread in threads)
    assert len(refused) == 1 and "neither would ever go on" in refused[0]


def test_a_coroutine_inside_anothers_block_is_refused(model):
    async def holds(entered, leave):
        with steering(model, 2.0).apply(model):
            bare(model)
            entered.set()
            await leave.wait()

    async def main():
        entered, leave = asyncio.Event(), asyncio.Event()
        holding = asyncio.create_task(holds(entered, leave))
        await entered.wait()
        with pytest.raises(ModelInUse, match="another coroutine of this thread"):
            model.final_logits(PROMPTS[0])
        leave.set()
        await holding
        return model.final_logits(PROMPTS[0])

    torch.testing.assert_close(asyncio.run(main()), model.final_logits(PROMPTS[0]))


def test_a_block_around_a_whole_loop_holds_for_its_coroutines(model):
    async def main():
        return model.final_logits(PROMPTS[0])

    expected = model.final_logits(PROMPTS[0])
    with steering(model, 2.0).apply(model):
        found = asyncio.run(main())
    assert (found - expected).abs().max() > 1e-2


def test_the_turn_is_given_back_after_an_exception(model):
    with pytest.raises(ZeroDivisionError), steering(model, 1.0).apply(model):
        raise ZeroDivisionError
    assert turn_of(model.hf).owner is None and turn_of(model.hf).session is None


def test_the_turn_is_beside_the_model():
    """So a model can be copied and pickled, and is freed."""
    hf = tiny("llama", num_hidden_layers=1)
    steered(interp.load(hf), 1.0)
    twin = copy.deepcopy(hf)
    assert turn_of(twin) is not turn_of(hf)
    pickle.dumps(hf)
    gone = weakref.ref(hf)
    del hf
    gc.collect()
    assert gone() is None

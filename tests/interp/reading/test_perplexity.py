"""Perplexity must be what one text at a time, in the plainest way, gives; and its intervals must keep to the laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import interp
from interp.reading import perplexity as module
from interp.reading.perplexity import Perplexity, perplexity, perplexity_ratio, reply_nll
from tests.tiny import CONFIGS, WINDOW, tiny, tiny_tokenizer

TEXTS = [
    "The kettle boils water.",
    "Can it do so without any heat? Nobody knows, and the sky above the harbour is blue on a clear day.",
    "A note.",
    "question: the sky\n\n    on a clear day, when it is heated",
]


def loaded(name: str = "llama", dtype: torch.dtype = torch.float32, adds_bos: bool = False, **changes) -> interp.Model:
    return interp.load(tiny(name, dtype, vocab_size=400, **changes), tokenizer=tiny_tokenizer(adds_bos=adds_bos))


@pytest.fixture(scope="module")
def model() -> interp.Model:
    return loaded()


@torch.no_grad()
def twin(model: interp.Model, text: str) -> tuple[float, int]:
    """One text, one token after another, the whole log-softmax in float64."""
    ids = model.tokenizer(text).input_ids
    log_probs = model.hf(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    total = 0.0
    for position in range(1, len(ids)):
        total -= log_probs[position - 1, ids[position]].item()
    return total, len(ids) - 1


def assert_like_the_twin(model: interp.Model, found: Perplexity, rtol: float) -> None:
    nll, n_tokens = (list(column) for column in zip(*(twin(model, text) for text in TEXTS), strict=True))
    assert found.n_tokens.tolist() == n_tokens
    np.testing.assert_allclose(found.nll, nll, rtol=rtol)
    assert found.value == pytest.approx(math.exp(sum(nll) / sum(n_tokens)), rel=10 * rtol)


@pytest.mark.parametrize("name", list(CONFIGS))
def test_it_is_what_one_text_at_a_time_gives(name):
    model = loaded(name)
    assert max(len(model.tokenizer(text).input_ids) for text in TEXTS) > 2 * WINDOW
    assert_like_the_twin(model, perplexity(model, TEXTS), rtol=1e-4)


def test_it_is_transformers_own_loss(model):
    for text in TEXTS:
        ids = torch.tensor([model.tokenizer(text).input_ids])
        with torch.no_grad():
            loss = model.hf(ids, labels=ids).loss.item()
        assert perplexity(model, [text]).value == pytest.approx(math.exp(loss), rel=1e-4)


def test_a_blind_model_has_the_size_of_its_vocabulary():
    model = loaded()
    with torch.no_grad():
        model.components.unembedding.weight.zero_()
    found = perplexity(model, TEXTS)
    assert found.value == pytest.approx(400)
    assert found.interval == pytest.approx((400, 400))


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_the_batch_size_changes_nothing(model, batch_size):
    whole, other = perplexity(model, TEXTS), perplexity(model, TEXTS, batch_size=batch_size)
    np.testing.assert_allclose(whole.nll, other.nll, rtol=1e-4)


def test_texts_keep_their_order(model):
    there, back = perplexity(model, TEXTS), perplexity(model, TEXTS[::-1])
    np.testing.assert_allclose(there.nll, back.nll[::-1], rtol=1e-4)
    assert back.texts == tuple(TEXTS[::-1]) and back.n_tokens.tolist() == there.n_tokens.tolist()[::-1]


@pytest.mark.parametrize(("texts_that_fit", "n_batches"), [(2, 2), (0, 4)])
def test_large_logits_make_small_batches(model, monkeypatch, texts_that_fit, n_batches):
    """However many texts are asked for, a batch's logits stay under the limit; one text is always read."""
    whole, shapes = perplexity(model, TEXTS), []
    limit = texts_that_fit * 400 * max(len(model.tokenizer(text).input_ids) for text in TEXTS) + 1
    monkeypatch.setattr(module, "_MAX_LOGITS", limit)
    handle = model.hf.register_forward_hook(lambda _, args, output: shapes.append(output.logits.shape))
    try:
        small = perplexity(model, TEXTS, batch_size=100)
    finally:
        handle.remove()
    np.testing.assert_allclose(small.nll, whole.nll, rtol=1e-4)
    assert len(shapes) == n_batches and all(shape[0] == 1 or shape.numel() <= limit for shape in shapes)


def test_chunks_of_positions_change_nothing(model, monkeypatch):
    whole = perplexity(model, TEXTS)
    for rows in (1, 7):
        monkeypatch.setattr(module, "_ROWS", rows)
        np.testing.assert_allclose(perplexity(model, TEXTS).nll, whole.nll, rtol=1e-6)


def test_the_first_token_is_scored_where_the_tokenizer_adds_a_bos(model):
    with_bos = loaded(adds_bos=True)
    assert (perplexity(with_bos, TEXTS).n_tokens == perplexity(model, TEXTS).n_tokens + 1).all()
    assert_like_the_twin(with_bos, perplexity(with_bos, TEXTS), rtol=1e-4)
    written_out = perplexity(with_bos, ["<s>" + TEXTS[0]])  # a BOS in the text isn't doubled
    np.testing.assert_allclose(written_out.nll, perplexity(with_bos, TEXTS[:1]).nll, rtol=1e-6)


def test_bfloat16_is_close_to_float32_of_the_same_weights():
    half = loaded(dtype=torch.bfloat16)
    assert_like_the_twin(half, perplexity(half, TEXTS, batch_size=1), rtol=1e-4)  # softmax and sums add no rounding
    full = interp.load(tiny("llama", torch.bfloat16, vocab_size=400).float(), tokenizer=tiny_tokenizer())
    ratio = perplexity_ratio(perplexity(half, TEXTS), perplexity(full, TEXTS)).value
    assert ratio == pytest.approx(1, abs=0.05)


def test_an_edit_acts_while_it_is_active(model):
    """A head's output set to zero by a hook is the weights of that head set to zero."""
    before = perplexity(model, TEXTS)
    projection, head = model.components.blocks[1].out_projection, slice(model.d_head, 2 * model.d_head)

    def silence(_, args):
        z = args[0].clone()
        z[..., head] = 0
        return (z, *args[1:])

    handle = projection.register_forward_pre_hook(silence)
    try:
        edited = perplexity(model, TEXTS)
    finally:
        handle.remove()
    other = loaded()
    with torch.no_grad():
        other.components.blocks[1].out_projection.weight[:, head] = 0
    np.testing.assert_allclose(edited.nll, perplexity(other, TEXTS).nll, rtol=1e-4)
    assert (np.abs(edited.nll - before.nll) > 1e-2).all()
    np.testing.assert_array_equal(perplexity(model, TEXTS).nll, before.nll)


# --- intervals ------------------------------------------------------------------------------------------


def made_up(n: int = 60, seed: int = 0, spread: float = 0.4) -> Perplexity:
    rng = np.random.default_rng(seed)
    n_tokens = rng.integers(80, 140, n)
    return Perplexity(tuple(map(str, range(n))), n_tokens * rng.normal(3, spread, n), n_tokens)


def changed(before: Perplexity, nll: np.ndarray) -> Perplexity:
    return Perplexity(before.texts, nll, before.n_tokens)


def test_value_weighs_tokens_not_texts():
    found = Perplexity(("a", "b"), np.array([2.0, 0.0]), np.array([1, 3]))
    assert found.value == pytest.approx(math.exp(0.5))
    assert found.to_frame().perplexity.tolist() == pytest.approx([math.exp(2), 1])
    assert repr(found) == "Perplexity(1.649 [0.0001198, 2.269e+04], 2 texts, 4 tokens)"  # two texts say little


def test_the_interval_holds_the_value_and_narrows_with_more_texts():
    few, many = made_up(30), made_up(1000)
    for found in (few, many):
        assert found.interval.low < found.value < found.interval.high
    widths = [math.log(found.interval.high / found.interval.low) for found in (few, many)]
    assert widths[0] / widths[1] == pytest.approx(math.sqrt(1000 / 30), rel=0.4)
    assert widths[1] == pytest.approx(2 * 1.96 * 0.4 / math.sqrt(1000), rel=0.2)  # the normal approximation


def test_a_single_text_has_no_interval():
    found = made_up(1)
    assert math.isfinite(found.value) and np.isnan(found.interval).all()
    assert np.isnan(perplexity_ratio(found, found).interval).all()


def test_a_run_against_itself_has_ratio_one():
    found = made_up()
    assert perplexity_ratio(found, found) == (1, (1, 1))


def test_a_ratio_is_paired():
    """Each token 1 % costlier, whatever the text: the interval is that point, although texts differ a lot."""
    before = made_up()
    after = changed(before, before.nll + math.log(1.01) * before.n_tokens)
    ratio = perplexity_ratio(after, before)
    assert ratio.value == pytest.approx(after.value / before.value) == pytest.approx(1.01)
    assert ratio.interval == pytest.approx((1.01, 1.01))
    assert perplexity_ratio(before, after).value == pytest.approx(1 / 1.01)


def test_noise_about_no_change_has_one_in_its_interval():
    before = made_up()
    after = changed(before, before.nll + np.random.default_rng(1).normal(0, 5, 60))
    ratio = perplexity_ratio(after, before)
    assert ratio.interval.low < 1 < ratio.interval.high and ratio.interval.low < ratio.value < ratio.interval.high


# --- replies --------------------------------------------------------------------------------------------


@torch.no_grad()
def slow_nll(model: interp.Model, prompt: interp.Prompt, reply: list[int]) -> float:
    """One token of the reply after another, each with all that stands before it in a pass of its own."""
    ids, total = list(prompt.token_ids), 0.0
    for token in reply:
        total -= model.hf(torch.tensor([ids])).logits[0, -1].double().log_softmax(-1)[token].item()
        ids.append(token)
    return total


@pytest.mark.parametrize("name", list(CONFIGS))
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_replies_cost_what_a_slow_loop_says(name, batch_size):
    model = loaded(name)
    prompts = [model.prompt(text, chat=False) for text in TEXTS]
    replies = [[5, 6, 7], [], [9], list(range(20, 35))]
    found = reply_nll(model, prompts, replies, batch_size=batch_size)
    expected = [slow_nll(model, p, r) for p, r in zip(prompts, replies, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert found[1] == 0 and found.shape == (4,)


def test_a_reply_is_the_end_of_a_text(model):
    """All tokens but the first, as a reply to the first: the perplexity of the text."""
    whole = [model.prompt(text, chat=False).token_ids for text in TEXTS]
    first = [interp.Prompt.from_token_ids(ids[:1]) for ids in whole]
    found = reply_nll(model, first, [ids[1:] for ids in whole])
    np.testing.assert_allclose(found, perplexity(model, TEXTS).nll, rtol=1e-4)
    assert reply_nll(model, [], []).shape == (0,)


def test_replies_that_cannot_be_scored_are_refused(model):
    prompts = [model.prompt(text, chat=False) for text in TEXTS[:2]]
    with pytest.raises(ValueError, match="1 replies were given for 2 prompts; expected one for each"):
        reply_nll(model, prompts, [[5]])
    with pytest.raises(ValueError, match="reads at most 128"):
        reply_nll(model, prompts, [[5], [6] * 200])
    with pytest.raises(ValueError, match="batch_size=0; expected 1 or more"):
        reply_nll(model, prompts, [[5], [6]], batch_size=0)


# --- refusals -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "error"),
    [
        ([], r"texts=\[\]; expected a list of at least one text"),
        ("A note.", r"texts is a str, 'A note\.'; expected a list, each of it a text"),
        (["A note.", ""], r"text 1, '', has 0 tokens; expected at least 2"),
        (["x"], r"text 0, 'x', has 1 tokens; expected at least 2"),
        (["A note.", "sky " * 200], r"prompt 'text 1' has \d+ tokens; .* reads at most 128"),
    ],
)
def test_texts_that_cannot_be_scored_are_refused(model, texts, error):
    with pytest.raises(ValueError, match=error):
        perplexity(model, texts)


def test_a_batch_size_of_none_is_refused(model):
    with pytest.raises(ValueError, match=r"batch_size=0; expected 1 or more"):
        perplexity(model, TEXTS, batch_size=0)


def test_a_model_without_tokenizer_is_refused(llama):
    with pytest.raises(ValueError, match="loaded without a tokenizer"):
        perplexity(llama, TEXTS)


def test_non_finite_logits_are_named():
    model = loaded()
    with torch.no_grad():
        model.components.blocks[2].out_projection.weight[0, 0] = torch.nan
    with pytest.raises(interp.NonFiniteLogitsError, match=r"on prompt 'text \d'.* is the attention of layer 2"):
        perplexity(model, TEXTS)


def test_only_the_same_texts_and_tokens_have_a_ratio(model):
    found = perplexity(model, TEXTS)
    with pytest.raises(ValueError, match=r"of 4 and 3 texts, not the same ones; expected the same texts"):
        perplexity_ratio(found, perplexity(model, TEXTS[:3]))
    with pytest.raises(ValueError, match=r"tokens; expected one tokenizer"):
        perplexity_ratio(found, perplexity(loaded(adds_bos=True), TEXTS))

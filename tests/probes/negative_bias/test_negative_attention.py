"""NAS: its laws on small arrays, agreement with a plain loop over attention patterns, and a planted head."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import interp
from interp.records.folder_lock import OtherRunError
from probes.heads.effects import HeadEffects
from probes.negative_bias import nas as negative_attention
from probes.negative_bias.nas import (
    negative_attention_score,
    query_positions,
    rank_by_effect,
    rank_heads,
    score_prompts,
)
from probes.questions.instructions import Instruction, build_prompts
from probes.questions.questions import Question, load_questions
from tests.tiny import tiny, tiny_tokenizer

QUESTIONS = [
    Question("q1", "Is the sky blue on a clear day?", "Yes"),
    Question("q2", "Is it so?", "No"),
    Question("q3", "Can the kettle do so without any heat? No or Yes?", "No"),
    Question("q4", "Is question a word?", "Yes"),
    Question("q5", "Answer it: can a clear day be heated when it is blue?", "No"),
]
SPANS = ("after_instruction", "answer", "all", "question")
SIZES = dict(vocab_size=400, max_position_embeddings=1024)


def load(name: str = "llama", **changes) -> interp.Model:
    return interp.load(tiny(name, **SIZES | changes), tokenizer=tiny_tokenizer())


@pytest.fixture(scope="module")
def model() -> interp.Model:
    return load()


def log_probs(*rows) -> torch.Tensor:
    """[layer 1, head 1, query, 2] from probabilities (A_yes, A_no) by query."""
    return torch.tensor(rows, dtype=torch.float64).log()[None, None]


def test_two_queries_by_hand():
    """(0.2 + 0.4) ln(0.4 / 0.2) + (0.5 + 0.25) ln(0.25 / 0.5) = 0.6 ln 2 - 0.75 ln 2 = -0.15 ln 2."""
    score = negative_attention_score(log_probs((0.2, 0.4), (0.5, 0.25)))
    assert score.shape == (1, 1)
    assert score.item() == pytest.approx(-0.15 * math.log(2))


def test_swapping_the_words_negates():
    generator = torch.Generator().manual_seed(0)
    pairs = torch.rand(3, 4, 5, 2, generator=generator).log()
    torch.testing.assert_close(negative_attention_score(pairs.flip(-1)), -negative_attention_score(pairs))


def test_equal_attention_gives_zero_and_queries_add():
    pairs = torch.rand(3, 4, 5, 2, generator=torch.Generator().manual_seed(1)).log()
    assert negative_attention_score(pairs[..., :1].expand(-1, -1, -1, 2)).abs().max() == 0
    alone = sum(negative_attention_score(pairs[:, :, i : i + 1]) for i in range(5))
    torch.testing.assert_close(negative_attention_score(pairs), alone)


@pytest.mark.parametrize("masked", [(0.0, 0.4), (0.3, 0.0), (0.0, 0.0)])
def test_queries_that_do_not_see_both_words_are_left_out(masked):
    score = negative_attention_score(log_probs((0.2, 0.4), masked))
    assert score.item() == pytest.approx(0.6 * math.log(2))
    assert negative_attention_score(log_probs(masked)).item() == 0


def test_a_head_that_looks_at_neither_is_near_zero():
    assert abs(negative_attention_score(log_probs((1e-9, 3e-9))).item()) < 1e-7


def slow_nas(model: interp.Model, prompt: interp.Prompt, span: str) -> np.ndarray:
    """Plain loops over TransformerLens's attention pattern."""
    with torch.no_grad():
        _, cache = model.bridge.run_with_cache(torch.tensor([prompt.token_ids]))
    last_option = max(prompt.span("positive") + prompt.span("negative"))
    queries = {
        "answer": [len(prompt) - 1],
        "all": [q for q in range(len(prompt)) if q >= last_option],
        "question": [q for q in prompt.span("question") if q >= last_option],
        "after_instruction": [q for q in range(len(prompt)) if q > max(prompt.span("instruction"))],
    }[span]
    assert query_positions(prompt, span) == tuple(queries)
    score = np.zeros((model.n_layers, model.n_heads))
    for layer in range(model.n_layers):
        pattern = cache[f"blocks.{layer}.attn.hook_pattern"][0].double().numpy()
        for head in range(model.n_heads):
            for q in queries:
                yes = sum(pattern[head, q, k] for k in prompt.span("positive"))
                no = sum(pattern[head, q, k] for k in prompt.span("negative"))
                if yes > 0 and no > 0:
                    score[layer, head] += (yes + no) * math.log(no / yes)
    return score


@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize(
    ("name", "changes"),
    [("llama", {}), ("gpt2", {}), ("gemma2", {}), ("gemma2", {"sliding_window": 20}), ("qwen3", {})],
    ids=str,
)
def test_scores_agree_with_a_plain_loop(name, changes, span):
    changes = {"n_positions": 1024} if name == "gpt2" else changes
    model = load(name, **changes)
    prompts = build_prompts(model, QUESTIONS[:3], Instruction("Yes or No? Say No or Yes, not yes."))
    found = score_prompts(model, prompts, span)
    assert np.isfinite(found).all()
    for prompt, scores in zip(prompts, found, strict=True):
        np.testing.assert_allclose(scores, slow_nas(model, prompt, span), atol=1e-4)


def planted() -> interp.Model:
    """L0H1 looks at the token " No" from everywhere: its query is a constant, along that token's key."""
    hf = tiny("llama", attention_bias=True, **SIZES)
    tokenizer = tiny_tokenizer()
    (no,) = tokenizer(" No").input_ids
    attention, d = hf.model.layers[0].self_attn, 8
    slow = d // 2 - 1  # the pair of features that the rotary embedding hardly turns
    with torch.no_grad():
        attention.q_proj.weight[d : 2 * d] = 0
        attention.q_proj.bias[d : 2 * d] = 0
        attention.q_proj.bias[d + slow] = 3
        key = hf.model.layers[0].input_layernorm(hf.model.embed_tokens.weight[no])
        attention.k_proj.weight[:d] = 0
        attention.k_proj.bias[:d] = 0
        attention.k_proj.weight[slow] = key / key.norm() * 3
    return interp.load(hf, tokenizer=tokenizer)


def test_a_planted_head_is_ranked_first_in_both_orders():
    model = planted()
    ranking = rank_heads(model, QUESTIONS)
    for measure in ("nas", "nas_swapped_order", "nas_order_balanced"):
        mean = ranking.measures[measure].mean(0)
        assert np.unravel_index(mean.argmax(), mean.shape) == (0, 1), measure
        assert mean[0, 1] > 2 * np.delete(mean.ravel(), 1).max(), measure
    assert ranking.top(1)["label"].tolist() == ["L0H1"]
    assert all((0, 1) in view.heads for view in ranking.views)
    view = ranking.views[0]
    looks_at = view.tokens[int(view.heads[0, 1]["attention"].argmax())]
    assert looks_at.strip() == "No"


def test_the_order_balanced_score_is_the_mean_of_the_two(model):
    ranking = rank_heads(model, QUESTIONS)
    assert list(ranking.measures) == ["nas", "nas_swapped_order", "nas_order_balanced"]
    assert ranking.score == "nas"
    plain, swapped = build_prompts(model, QUESTIONS), build_prompts(model, QUESTIONS, Instruction().swapped())
    np.testing.assert_allclose(ranking.measures["nas"], score_prompts(model, plain), atol=1e-5)
    np.testing.assert_allclose(ranking.measures["nas_swapped_order"], score_prompts(model, swapped), atol=1e-5)
    mean = (ranking.measures["nas"] + ranking.measures["nas_swapped_order"]) / 2
    np.testing.assert_allclose(ranking.measures["nas_order_balanced"], mean, atol=1e-7)
    assert ranking.example_ids == tuple(q.id for q in QUESTIONS)
    assert [v.example_id for v in ranking.views] == ["q1", "q2", "q4"]  # gold answers in turn
    assert ranking.provenance["data"]["n"] == 5 and ranking.provenance["data"]["n_yes"] == 2


@pytest.mark.parametrize("effects", [None, "zero"])
def test_the_batch_size_changes_nothing(model, effects):
    one, many = (rank_heads(model, QUESTIONS, effects=effects, batch_size=n, n_views=0) for n in (1, 4))
    assert list(one.measures) == list(many.measures)
    for name in one.measures:
        np.testing.assert_allclose(one.measures[name], many.measures[name], atol=1e-4)
    assert one.provenance["run_id"] == many.provenance["run_id"]


@pytest.mark.parametrize("span", SPANS)
def test_query_span_is_used_and_recorded(model, span):
    ranking = rank_heads(model, QUESTIONS[:2], query_span=span, n_views=0)
    expected = [slow_nas(model, p, span) for p in build_prompts(model, QUESTIONS[:2])]
    np.testing.assert_allclose(ranking.scores, expected, atol=1e-4)
    assert ranking.provenance["settings"]["query_span"] == span


@pytest.mark.parametrize("positions", ["answer", 2, "all"])
@pytest.mark.parametrize("ablation", ["zero", "mean_of_others", "mean"])
def test_effects_are_those_of_the_scan(model, ablation, positions):
    questions = QUESTIONS[:3]
    ranking = rank_by_effect(model, questions, ablation=ablation, positions=positions, n_views=1)
    shape = (3, model.n_layers, model.n_heads)
    for name, order in (("total_effect", Instruction()), ("total_effect_swapped_order", Instruction().swapped())):
        prompts = build_prompts(model, questions, order)
        metric = interp.LogitDifference("No", "Yes")
        result = interp.scan(
            model, prompts, interp.ablate_each_head(ablation), metric=metric, positions=positions, method="loop"
        )
        np.testing.assert_allclose(ranking.measures[name], -result.change.reshape(shape), atol=1e-4)
    assert ranking.score == "total_effect"
    assert ("direct_effect" in ranking.measures) == (positions == "answer")
    if positions == "answer":
        prompts = build_prompts(model, questions)
        direct = [interp.attribute(model, p, metric).heads for p in prompts]
        np.testing.assert_allclose(ranking.measures["direct_effect"], direct, atol=1e-5)


def test_effects_beside_nas_and_the_behaviour(model):
    ranking = rank_heads(model, QUESTIONS, effects="zero", n_views=0)
    effect = rank_by_effect(model, QUESTIONS, n_views=0)
    for name in ("total_effect", "direct_effect"):
        np.testing.assert_allclose(ranking.measures[name], effect.measures[name], atol=1e-4)
    prompts = build_prompts(model, QUESTIONS)
    logits = model.final_logits(prompts)
    no, yes = (prompts[0].answers[w][0] for w in ("No", "Yes"))
    odds = (logits[:, no] - logits[:, yes]).numpy()
    behaviour = ranking.provenance["behaviour"]
    assert behaviour["says_yes"] == int((odds < 0).sum())
    right = [(o < 0) == (q.answer == "Yes") for o, q in zip(odds, QUESTIONS, strict=True)]
    assert behaviour["accuracy"] == round(float(np.mean(right)), 4)
    assert behaviour["mean_log_odds_of_no"] == pytest.approx(float(odds.mean()), abs=1e-3)


def test_other_option_words(model):
    instruction = Instruction("Is it Sky or Note?", positive="Sky", negative="Note")
    prompts = build_prompts(model, QUESTIONS[:2], instruction)
    assert prompts[0].gold == "Sky" and prompts[1].gold == "Note"
    ranking = rank_heads(model, QUESTIONS[:2], instruction=instruction, n_views=0)
    np.testing.assert_allclose(ranking.scores, score_prompts(model, prompts), atol=1e-5)
    assert "'Note'" in ranking.descriptions["nas"].meaning


class Killed(Exception):
    pass


@pytest.mark.parametrize("rank", [rank_heads, rank_by_effect])
def test_a_killed_ranking_resumes_to_the_same_numbers(model, rank, tmp_path, monkeypatch):
    owner, name = (negative_attention, "_score_and_masked") if rank is rank_heads else (HeadEffects, "measure")
    real, calls = getattr(owner, name), []

    def dies(*args, **kwargs):
        calls.append(args)
        if len(calls) == 4:  # two calls a batch: in the middle of the second
            raise Killed
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, dies)
    with pytest.raises(Killed):
        rank(model, QUESTIONS, batch_size=2, out=tmp_path, n_views=0)
    with pytest.raises(OtherRunError, match=r"\(data differ\)|n_items"):
        rank(model, QUESTIONS[:4], batch_size=2, out=tmp_path, n_views=0, resume=True)
    calls.clear()
    monkeypatch.setattr(owner, name, lambda *a, **k: calls.append(a) or real(*a, **k))
    resumed = rank(model, QUESTIONS, batch_size=2, out=tmp_path, n_views=0)  # the cell again: it goes on
    assert len(calls) == 4  # two batches were missing
    whole = rank(model, QUESTIONS, batch_size=2, n_views=0)
    for measure in whole.measures:
        np.testing.assert_array_equal(resumed.measures[measure], whole.measures[measure])
    assert resumed.provenance["run_id"] == whole.provenance["run_id"]


def test_a_changed_weight_is_another_run(tmp_path):
    model = load()
    rank_heads(model, QUESTIONS[:2], out=tmp_path, n_views=0)
    with torch.no_grad():
        model.components.blocks[0].out_projection.weight.mul_(1.01)
    with pytest.raises(FileExistsError, match="already holds the report of run"):
        rank_heads(model, QUESTIONS[:2], out=tmp_path, n_views=0, resume=True)


def test_a_finished_run_is_read_back_and_a_second_one_is_refused(model, tmp_path):
    first = rank_heads(model, QUESTIONS[:2], out=tmp_path)
    again = rank_heads(model, QUESTIONS[:2], out=tmp_path, resume=True)
    assert again.provenance["created"] == first.provenance["created"]
    assert not (tmp_path / "parts").exists()
    with pytest.raises(FileExistsError, match="already holds the report of run"):
        rank_heads(model, QUESTIONS[:3], out=tmp_path)
    assert rank_heads(model, QUESTIONS[:3], out=tmp_path, overwrite=True).n_examples == 3


def test_bad_requests_are_refused(model):
    for rank in (rank_heads, rank_by_effect):
        with pytest.raises(ValueError, match="no questions were given"):
            rank(model, [])
    with pytest.raises(ValueError, match="query_span='before'; expected 'after_instruction'"):
        rank_heads(model, QUESTIONS, query_span="before")
    with pytest.raises(ValueError, match="ablation 'blur'; expected"):
        rank_heads(model, QUESTIONS, effects="blur")
    with pytest.raises(ValueError, match="ablation 'blur'; expected"):
        rank_by_effect(model, QUESTIONS, ablation="blur")
    with pytest.raises(ValueError, match="positions='end'; expected"):
        rank_by_effect(model, QUESTIONS, positions="end")
    last = Instruction(layout="Question: {question}\n{instruction}")
    with pytest.raises(ValueError, match=r"query_span='question' is empty for prompt 'q1': the question stands before"):
        rank_heads(model, QUESTIONS, instruction=last, query_span="question")
    assert rank_heads(model, QUESTIONS, instruction=last, query_span="answer", n_views=0).n_examples == 5


def test_too_many_last_positions_are_refused_before_any_work(model, tmp_path):
    """A number of positions that only a short prompt in the middle does not have."""
    shortest = min(len(p) for p in build_prompts(model, QUESTIONS))
    assert shortest < len(build_prompts(model, QUESTIONS)[0])
    with pytest.raises(ValueError, match=f"positions={shortest + 1}; expected .* shortest prompt's length {shortest}"):
        rank_by_effect(model, QUESTIONS, positions=shortest + 1, out=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_architecture_without_direct_attribution_can_still_be_ranked():
    """Granite scales its residual stream, which direct attribution refuses: what needs it is left out, and says so."""
    from transformers import GraniteConfig, GraniteForCausalLM

    config = tiny("llama", **SIZES).config.to_dict()
    config.pop("model_type")
    torch.manual_seed(0)
    hf = GraniteForCausalLM(GraniteConfig(**config | {"residual_multiplier": 0.3}))
    model = interp.load(hf, tokenizer=tiny_tokenizer())
    with pytest.warns(UserWarning, match="direct attribution is left out"):
        ranking = rank_heads(model, QUESTIONS, effects="zero")
    assert "total_effect" in ranking.measures and "direct_effect" not in ranking.measures
    assert ranking.views == ()
    assert "logits unexplained" in ranking.provenance["attribution"]
    with pytest.warns(UserWarning, match="direct attribution is left out"):
        ranking = rank_by_effect(model, QUESTIONS)
    assert list(ranking.measures) == ["total_effect", "total_effect_swapped_order"]


def test_smollm2_with_six_questions(smollm2):
    questions = load_questions(limit=6)
    ranking = rank_heads(smollm2, questions, n_views=1)
    assert list(ranking.measures) == ["nas", "nas_swapped_order", "nas_order_balanced"]
    assert ranking.scores.shape == (6, 30, 9)
    (prompt,) = build_prompts(smollm2, questions[:1])
    np.testing.assert_allclose(ranking.scores[0], slow_nas(smollm2, prompt, "after_instruction"), atol=1e-3)


def test_nan_is_refused_not_scored_as_masked():
    model = load()
    prompts = build_prompts(model, QUESTIONS[:1])
    with torch.no_grad():
        model.components.blocks[1].out_projection.weight[0] = float("nan")
    with pytest.raises(interp.NonFiniteLogitsError, match="attention of layer 1"):
        score_prompts(model, prompts)


def test_a_bad_span_leaves_nothing_behind(model, tmp_path):
    with pytest.raises(ValueError, match="query_span='bogus'"):
        rank_heads(model, QUESTIONS, query_span="bogus", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_run_is_named_by_weights_template_data_and_settings_alone(model):
    """Another machine, or the same weights converted again, gives the same run."""
    from dataclasses import replace

    elsewhere = replace(model, source={"converted_at": "another day"}, name="elsewhere")
    runs = [rank_heads(m, QUESTIONS[:2], n_views=0).provenance["run_id"] for m in (model, elsewhere)]
    assert runs[0] == runs[1]


def test_origin_and_both_forms_are_recorded(model):
    origin = {"source": "mine.csv", "limit": 2, "seed": 3}
    with pytest.warns(UserWarning, match="direct attribution is left out"):
        ranking = rank_heads(model, QUESTIONS[:2], effects="zero", forms="both", origin=origin)
    assert ranking.provenance["data"].items() >= origin.items()
    assert ranking.provenance["settings"]["forms"] == "both"
    assert "direct_effect" not in ranking.measures
    assert ranking.provenance["share_of_queries_that_cannot_see_an_option"] == 0


@pytest.mark.parametrize("screen", ["gradient", "bfloat16"])
def test_a_screened_ranking_has_exact_effects_where_it_says_so(model, screen, tmp_path):
    whole = rank_by_effect(model, QUESTIONS, positions=3, n_views=0)
    found = rank_by_effect(model, QUESTIONS, positions=3, n_views=0, screen=screen, top=2, out=tmp_path)
    exact = np.isin(
        [f"L{layer}H{head}" for layer, head in np.ndindex(found.scores.shape[1:])], found.provenance["screen"]["exact"]
    )
    for name in ("total_effect", "total_effect_swapped_order"):
        of_heads = [r.measures[name].reshape(len(QUESTIONS), -1) for r in (found, whole)]
        np.testing.assert_allclose(of_heads[0][:, exact], of_heads[1][:, exact], atol=1e-4)
        assert np.abs(of_heads[0] - of_heads[1])[:, ~exact].max(initial=1.0) > 1e-4
    assert list(found.top(2)["label"]) == list(whole.top(2)["label"])
    frame = found.to_frame()
    assert set(frame[frame["measured"] == "exactly"]["label"]) == set(found.provenance["screen"]["exact"])
    assert set(frame["measured"]) <= {"exactly", screen}
    assert "were measured exactly" in (tmp_path / "report.html").read_text()
    assert interp.load_result(tmp_path).provenance["screen"] == found.provenance["screen"]

"""One interface to many ways of finding heads: laws, parity with slow obvious loops, errors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import interp
from interp.architecture import run_pass
from interp.interventions import stream_rewritten
from interp.locating import WAYS, expected_passes, heads_rewritten, learn_gates, locate, patched_sets
from interp.locating.asked import Asked, varying_positions
from interp.locating.auto import sources
from interp.locating.counting import counted
from interp.locating.relevance import relevance_rules
from interp.locating.sets import single_sets
from interp.pairs import PromptPairs
from interp.prompts import Prompt
from interp.reading import default_metric, head_outputs
from probes.known_answers import load_known
from tests.tiny import tiny

ROWS = np.random.default_rng(0).integers(3, 90, size=(8, 7))
ANSWERS = [(5, 7), (9, 8), (5, 7), (11, 12)]
PAIRS = PromptPairs.from_token_ids(ROWS[:4].tolist(), ROWS[4:].tolist(), ANSWERS)


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def model(request):
    return interp.load(tiny(request.param))


@pytest.fixture(scope="module")
def small(llama):
    return llama


def asked(model, positions="all"):
    return Asked(model, PAIRS, default_metric(PAIRS.clean), positions, 0, 0)


@pytest.mark.parametrize("method", WAYS)
def test_every_way_gives_a_ranking_of_all_heads(small, method):
    ranking = locate(small, PAIRS, method, check=0)
    assert ranking.scores.shape[1:] == (small.n_layers, small.n_heads) and (ranking.scores >= 0).all()
    assert ranking.provenance["method"] == method and ranking.descriptions["importance"].meaning
    assert ranking.provenance["passes"] > 0 or method == "random"
    assert ("effect" in ranking.measures) == (ranking.n_examples == len(PAIRS) and ranking.n_examples > 1)


def by_hand(model, i, layer, head, first):
    """The metric with one head's output taken from the corrupt prompt, by a pass of its own."""
    source = head_outputs(model, [PAIRS.corrupt[i]], None)[0]

    def swap(at, z):
        if at != layer:
            return None
        z = z.clone()
        z[:, first:, head] = source[layer, first:, head]
        return z

    with torch.no_grad(), heads_rewritten(model, swap):
        logits = run_pass(model, {**model.inputs([PAIRS.clean[i]]).inputs, "use_cache": False}).logits[0, -1]
    right, wrong = (PAIRS.clean[i].answer_tokens(name)[0] for name in ("clean", "corrupt"))
    return float(logits[right] - logits[wrong])


@pytest.mark.parametrize("positions, first", [("all", 0), ("answer", 6), (3, 4)])
def test_patching_a_head_is_patching_it_by_hand(model, positions, first):
    effects = locate(model, PAIRS, "patch", positions=positions).measures["effect"]
    sets = patched_sets(asked(model, positions), single_sets((model.n_layers, model.n_heads)))
    clean = patched_sets(asked(model), np.zeros((1, model.n_layers, model.n_heads), bool))
    for i, layer, head in [(0, 0, 1), (1, 2, 3), (3, 3, 0)]:
        lost = clean[i, 0] - by_hand(model, i, layer, head, first)
        assert effects[i, layer, head] == pytest.approx(lost, abs=1e-4)
        assert clean[i, 0] - sets[i, layer * model.n_heads + head] == pytest.approx(lost, abs=1e-4)


def test_denoising_is_patching_backwards(small):
    there = locate(small, PAIRS, "denoise", check=0).measures["effect"]
    back = locate(small, PAIRS.reversed(), "patch", check=0).measures["effect"]
    assert np.allclose(there, -back, atol=1e-5)


def test_all_heads_patched_of_a_head_that_nothing_follows_is_exact_by_gradient(small):
    """In the last layer at the answer, attribution patching is the derivative of a patch."""
    request = asked(small, "answer")
    steps = [1e-2]
    source = head_outputs(small, PAIRS.corrupt, None)
    estimate = locate(small, PAIRS, "attribution_patching", positions="answer", check=0).measures["effect"]
    layer, head = small.n_layers - 1, 2

    def nudge(at, z):
        if at != layer:
            return None
        z = z.clone()
        z[0, -1, head] += steps[0] * (source[0][layer, -1, head] - z[0, -1, head])
        return z

    with torch.no_grad():
        before = request.measured([PAIRS.clean[0]])
        after = request.measured([PAIRS.clean[0]], heads_rewritten(small, nudge))
    assert estimate[0, layer, head] == pytest.approx(float(before - after) / steps[0], rel=0.05, abs=1e-3)


def test_integrated_gradients_of_equal_embeddings_are_the_gradient(small):
    """Where clean and corrupt differ at the last token alone, both see the same heads before it: no effect there."""
    rows = ROWS[:4].tolist()
    pairs = PromptPairs.from_token_ids(rows, [[*row[:-1], 2] for row in rows], [(5, 7)] * 4)
    for method in ("attribution_patching", "integrated_gradients", "patch"):
        everywhere = locate(small, pairs, method, check=0).measures["effect"]
        answer = locate(small, pairs, method, positions="answer", check=0).measures["effect"]
        assert np.allclose(everywhere, answer, atol=1e-4)


def test_relevance_rules_keep_the_logits(model):
    with torch.no_grad():
        before = asked(model).measured(list(PAIRS.clean))
    with torch.enable_grad(), relevance_rules(model):
        assert torch.allclose(before, asked(model).measured(list(PAIRS.clean)), atol=1e-5)


def test_relevance_is_conserved_through_norms_and_gates():
    """Without attention and biases, all of the metric goes back to what enters the first block."""
    model, seen = interp.load(tiny("llama")), {}
    for block in model.components.blocks:
        block.out_projection.weight.data.zero_()

    def watched(hidden):
        seen["x"] = hidden.detach().requires_grad_()
        return seen["x"]

    with torch.enable_grad(), relevance_rules(model), stream_rewritten(model, 0, watched, counts=True):
        metric = asked(model).measured(list(PAIRS.clean)).sum()
        (relevance,) = torch.autograd.grad(metric, seen["x"])
    assert (relevance * seen["x"]).sum().item() == pytest.approx(metric.item(), rel=1e-3)


def test_a_pair_that_cancels_is_taken_back():
    """Effects as they would be of two heads that undo each other, on a model in which they do."""
    model = interp.load(tiny("llama", num_key_value_heads=4))
    attention = model.hf.model.layers[1].self_attn
    with torch.no_grad():  # head 3 of layer 1 becomes head 2 with its output turned round
        d = model.d_head
        for part in (attention.q_proj, attention.k_proj, attention.v_proj):
            part.weight[3 * d : 4 * d] = part.weight[2 * d : 3 * d]
        attention.o_proj.weight[:, 3 * d : 4 * d] = -attention.o_proj.weight[:, 2 * d : 3 * d]
    rows = np.random.default_rng(0).integers(3, 90, size=(24, 7)).tolist()
    pairs = PromptPairs.from_token_ids(rows[:12], rows[12:], [(5, 7), (9, 8), (11, 12)] * 4)
    alone, together = (locate(model, pairs, way, check=0).scores.mean(0) for way in ("resample", "auto"))
    assert together[1, 2] < 1e-3 < alone[1, 2] and together[1, 3] < 1e-3 < alone[1, 3]
    assert np.median(together) > 1e-3


def test_auto_is_the_mean_of_resampling_and_mean_where_no_heads_cancel(small):
    """Its own number for each pair, by passes of their own, and within three scans."""
    request, found = asked(small), locate(small, PAIRS, check=0)
    chosen = [interp.patch_each_head(sources(request)), interp.ablate_each_head("mean", [*PAIRS.clean, *PAIRS.corrupt])]
    drops = [
        interp.scan(small, PAIRS.clean, edits, metric=request.metric, positions="all", method="loop").drop
        for edits in chosen
    ]
    sizes = np.abs(drops).mean(0).reshape(len(PAIRS), small.n_layers, small.n_heads)
    same = np.isclose(found.scores, sizes, rtol=1e-3, atol=1e-4).all(0)
    assert same.mean() > 0.7 and (found.scores <= sizes + 1e-4).all()
    assert found.provenance["passes"] <= 3 * locate(small, PAIRS, "zero", check=0).provenance["passes"]


def test_sources_have_another_answer_where_there_is_one(small):
    for clean, source, twin in zip(PAIRS.clean, sources(asked(small)), PAIRS.corrupt, strict=True):
        right = source.answer_tokens("clean" if source in PAIRS.clean else "corrupt")
        assert right != clean.answer_tokens("clean") and source is not twin
    alone = Asked(small, PAIRS[:1], default_metric(PAIRS.clean), "all", 0, 0)
    assert sources(alone) == [PAIRS.corrupt[0]]


def test_gates_leave_the_model_as_it_was_and_say_what_stays_open(small):
    before = small.final_logits(list(PAIRS.clean))
    gates = learn_gates(asked(small), steps=5)
    assert torch.equal(before, small.final_logits(list(PAIRS.clean)))
    assert gates.kept.shape == gates.suppressed.shape == (small.n_layers, small.n_heads) and len(gates.losses) == 10
    assert all(p.requires_grad for p in small.hf.parameters())


def test_cost_is_counted_in_passes(small):
    with counted(small) as cost:
        small.final_logits([PAIRS.clean[0]])
    assert cost.passes(small, PAIRS.clean[:1]) == 1


@pytest.mark.parametrize(
    "method, positions, message",
    [
        ("best", "all", "expected one of auto, zero"),
        ("zero", 99, "expected 'answer', 'all' or a number from 1 to 7"),
        ("direct", 3, "looks at the answer alone"),
    ],
)
def test_what_cannot_be_done_is_refused(small, method, positions, message):
    with pytest.raises(ValueError, match=message):
        locate(small, PAIRS, method, positions=positions)


def test_a_single_pair_is_enough(small):
    assert locate(small, PAIRS[:1], check=0).n_examples == 1


LONGER = PromptPairs(
    PAIRS.clean,
    tuple(replace(p, token_ids=(*p.token_ids[:2], 55, *p.token_ids[2:]), tokens=()) for p in PAIRS.corrupt),
    "differing",
)


def test_pairs_of_unequal_lengths_are_patched_where_they_are_aligned(model):
    effects = locate(model, LONGER, "patch").measures["effect"]
    clean = patched_sets(asked(model), np.zeros((1, model.n_layers, model.n_heads), bool))
    for i, layer, head in [(0, 0, 1), (1, 2, 3), (3, 3, 0)]:
        source = head_outputs(model, [LONGER.corrupt[i]], None)[0][:, list(LONGER.places(i))]

        def swap(at, z, source=source, layer=layer, head=head):
            return None if at != layer else z.index_copy(2, torch.tensor([head]), source[None, layer, :, [head]])

        with torch.no_grad(), heads_rewritten(model, swap):
            logits = run_pass(model, {**model.inputs([LONGER.clean[i]]).inputs, "use_cache": False}).logits[0, -1]
        right, wrong = (LONGER.clean[i].answer_tokens(name)[0] for name in ("clean", "corrupt"))
        assert effects[i, layer, head] == pytest.approx(clean[i, 0] - float(logits[right] - logits[wrong]), abs=1e-4)


@pytest.mark.filterwarnings("ignore:.*gates are neither open nor closed")
@pytest.mark.parametrize("method", [m for m in WAYS if m != "integrated_gradients"])
def test_every_way_takes_pairs_that_are_aligned(small, method):
    assert np.isfinite(locate(small, LONGER, method, check=0).scores).all()


def test_gates_that_have_not_converged_are_said_and_their_curve_is_kept(small):
    with pytest.warns(UserWarning, match="gates are neither open nor closed"):
        ranking = locate(small, LONGER, "gates", check=0)
    assert "neither open nor closed" in ranking.provenance["beside"][0]
    assert ranking.provenance["gates"]["undecided"] > 0.2 and len(ranking.provenance["gates"]["losses"]) == 160


def test_embeddings_of_unequal_lengths_are_not_mixed(small):
    with pytest.raises(ValueError, match="7 and 8 tokens; integrated gradients mix"):
        locate(small, LONGER, "integrated_gradients", check=0)


def test_other_outputs_come_from_a_pool(small):
    """With the pool of one prompt, resampling is patching from it."""
    pool = PAIRS.corrupt[2:3]
    found = locate(small, PAIRS[:1], "resample", pool=pool, check=0).measures["effect"]
    twin = PromptPairs(PAIRS.clean[:1], tuple(replace(p, answers=PAIRS.corrupt[0].answers) for p in pool))
    assert np.allclose(found, locate(small, twin, "patch", check=0).measures["effect"], atol=1e-5)
    assert locate(small, PAIRS, "auto", pool=PAIRS.corrupt, check=0).n_examples == 4
    with pytest.raises(ValueError, match="none of 7 tokens"):
        locate(small, PAIRS, "resample", pool=LONGER.corrupt, check=0)
    with pytest.raises(ValueError, match="takes nothing from a pool"):
        locate(small, PAIRS, "zero", pool=pool)


def test_what_it_costs_is_known_before(small):
    for method in ("zero", "patch", "auto", "direct", "attribution_patching"):
        at = "answer" if method == "direct" else "all"
        spent = locate(small, PAIRS, method, positions=at, check=0, warn=False).provenance["passes"]
        assert 0.4 * spent <= expected_passes(small, method) <= 3 * spent


@pytest.mark.parametrize("method", ["patch", "resample", "denoise", "attribution_patching"])
def test_positions_that_all_prompts_share_are_left_out_and_change_nothing(model, method):
    shared = [5, 9, 11]
    late = PromptPairs.from_token_ids(
        [[*shared, *row[:3]] for row in ROWS[:4].tolist()], [[*shared, *row[:3]] for row in ROWS[4:].tolist()], ANSWERS
    )
    assert varying_positions(model, [*late.clean, *late.corrupt]) == 3
    found = locate(model, late, method, check=0, warn=False)
    whole = WAYS[method].find(Asked(model, late, default_metric(late.clean), "all", 0, 0))
    assert np.allclose(found.measures["effect"], whole, atol=1e-4)
    assert found.provenance["positions"] == "all"


def test_of_several_lengths_what_all_share_is_left_out_too(model):
    def of(*rows):
        return tuple(Prompt.from_token_ids([5, 9, 11, *row], {"clean": (20,), "corrupt": (21,)}) for row in rows)

    late = PromptPairs(of([1, 2, 3], [7, 3, 1, 2]), of([4, 2, 3], [7, 8, 4, 6, 2]), align="differing")
    prompts = [*late.clean, *late.corrupt]
    assert varying_positions(model, prompts) == 5 and varying_positions(model, prompts[:1]) == "all"
    found = locate(model, late, "patch", check=0, warn=False)
    whole = WAYS["patch"].find(Asked(model, late, default_metric(late.clean), "all", 0, 0))
    assert np.allclose(found.measures["effect"], whole, atol=1e-4)
    assert varying_positions(model, [*prompts, *of([2])]) == "all"


def test_positions_of_a_model_that_looks_ahead_all_vary():
    known = load_known("alone")
    pairs = known.pairs(4)
    assert varying_positions(known.model, [*pairs.clean, *pairs.corrupt]) == "all"
    assert varying_positions(known.model, [pairs.clean[0], replace(pairs.clean[0], token_ids=(1, 2))]) == "all"

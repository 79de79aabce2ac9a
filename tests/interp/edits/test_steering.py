"""Steering: what it changes and where, held to plain loops without a cache; gone afterwards; saved and loaded."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

import interp
from interp.edits.composed import load_edit
from interp.edits.directions import Direction
from interp.edits.identity import describe_model
from interp.edits.steering import Steering, add_direction, clamp_direction, remove_direction
from interp.interventions.values import ResidualEdit
from interp.passes import end_tokens
from interp.reading.capture import head_outputs
from interp.reading.generation import generate
from interp.reading.residual import residual_states
from tests.tiny import CONFIGS, prompt, tiny, tiny_tokenizer

TEXTS = ["Is the sky blue?", "Can it?", "Yes or No: is the kettle heated on a clear day without any heat?"]


def load(architecture: str = "llama", dtype=torch.float32) -> interp.Model:
    return interp.load(tiny(architecture, dtype, vocab_size=400), tokenizer=tiny_tokenizer())


@pytest.fixture(scope="module")
def model() -> interp.Model:
    return load()


def prompts_of(model) -> list[interp.Prompt]:
    return [model.prompt(text, id=text) for text in TEXTS]


def direction_of(model, seed: int = 0, scale: float = 1.0) -> Direction:
    generator = torch.Generator().manual_seed(seed)
    vectors = scale * torch.randn(model.n_layers + 1, model.d_model, generator=generator)
    return Direction(vectors, describe_model(model), {"name": "random, for a test"})


def every_state(model, prompts) -> list[torch.Tensor]:
    """[layer, pos, d_model] of each prompt, run alone."""
    return [residual_states(model, [p], [range(len(p))])[0] for p in prompts]


def answers(model, prompts) -> torch.Tensor:
    """Logits from one plain pass for each prompt."""
    with torch.no_grad():
        return torch.stack([model.hf(torch.tensor([p.token_ids])).logits[0, -1] for p in prompts])


def component(states: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """[layer, pos] along unit rows."""
    return torch.einsum("lpd,ld->lp", states, vectors / vectors.norm(dim=-1, keepdim=True))


@contextmanager
def by_hand(model, layer, change, positions):
    """The obvious edit of one layer's input for one unpadded prompt, at the given positions."""

    def hook(module, args, kwargs):
        hidden = (args[0] if args else kwargs["hidden_states"]).clone()
        for position in positions:
            hidden[:, position] = change(hidden[:, position])
        return ((hidden, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": hidden})

    handle = model.components.blocks[layer].module.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def reply_by_hand(model, p, n, layer, change, positions, while_generating) -> str:
    """One pass over everything for each token, no cache, the edit at ``positions`` and, if asked, at what was made."""
    ids, new = list(p.token_ids), []
    for _ in range(n):
        where = [*positions, *(range(len(p), len(ids)) if while_generating else ())]
        with by_hand(model, layer, change, where):
            token = int(model.hf(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
        if token in end_tokens(model):
            break
        ids.append(token)
        new.append(token)
    return model.tokenizer.decode(new, skip_special_tokens=True, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nothing_added_changes_nothing_bit_for_bit(dtype):
    model = load(dtype=dtype)
    prompts, direction = prompts_of(model), direction_of(model)
    plain, replies = answers(model, prompts), generate(model, prompts, 8)
    for steering in (
        add_direction(direction, 0.0, while_generating=True),
        add_direction(0 * direction, 3.0, layers=2),
        add_direction(direction, 0.0, positions="suffix"),
    ):
        with steering.apply(model, prompts):
            assert torch.equal(answers(model, prompts), plain)
            assert generate(model, prompts, 8) == replies


def test_adding_and_taking_away_again_changes_nothing(model):
    prompts, direction = prompts_of(model), direction_of(model, scale=0.3)
    plain, add = answers(model, prompts), add_direction(direction, 1.0, layers=1)
    with add.apply(model):
        assert (answers(model, prompts) - plain).abs().max() > 0.1
        with add_direction(-direction, 1.0, layers=1).apply(model):
            torch.testing.assert_close(answers(model, prompts), plain, atol=1e-4, rtol=0)
    both = Steering((*add.edits, replace(add.edits[0], coefficient=-1.0)))
    with both.apply(model):
        torch.testing.assert_close(answers(model, prompts), plain, atol=1e-4, rtol=0)
    assert torch.equal(answers(model, prompts), plain)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "gpt_neox", "olmo2"])
@pytest.mark.parametrize("from_layer", [None, 2])
def test_after_a_removal_nothing_is_left_along_the_direction(name, from_layer):
    model = interp.load(tiny(name))
    direction, prompts = direction_of(model), [prompt(9, seed=1), prompt(30, seed=2)]
    vectors = direction.vectors if from_layer is None else direction.vectors[[from_layer]].expand(5, -1)
    once = remove_direction(direction, from_layer=from_layer)
    plain = every_state(model, prompts)
    with once.apply(model):
        found, logits = every_state(model, prompts), answers(model, prompts)
        with once.apply(model):
            torch.testing.assert_close(answers(model, prompts), logits, atol=1e-4, rtol=0)
    for states, before in zip(found, plain, strict=True):
        assert component(before, vectors).abs().mean() > 0.1
        assert component(states, vectors).abs().max() < 1e-4
    assert (logits - answers(model, prompts)).abs().max() > 0.1


@torch.no_grad()
def test_a_removal_is_that_of_every_write():
    """Arditi et al.: embedding, attention and MLP each write nothing along the direction (llama: weights projected)."""
    model, p = interp.load(tiny("llama")), prompt(20)
    direction = direction_of(model)
    with remove_direction(direction, from_layer=1).apply(model):
        found = answers(model, [p])
    with remove_direction(direction, from_layer=1, every_write=False).apply(model):
        at_inputs_only = answers(model, [p])
    unit = direction.vectors[1] / direction.vectors[1].norm()
    for layer in model.hf.model.layers:
        for written in (layer.self_attn.o_proj.weight, layer.mlp.down_proj.weight):
            written -= torch.outer(unit, unit @ written)
    rows = model.hf.model.embed_tokens.weight
    rows -= torch.outer(rows @ unit, unit)
    expected = answers(model, [p])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert (at_inputs_only - expected).abs().max() > 1e-2  # the MLPs read what attention wrote


def test_a_clamp_sets_the_component(model):
    prompts, direction = prompts_of(model), direction_of(model)
    with clamp_direction(direction, 2.5, layers=[1, 4]).apply(model):
        for states in every_state(model, prompts):
            along = component(states, direction.vectors)
            torch.testing.assert_close(along[[1, 4]], torch.full_like(along[[1, 4]], 2.5), atol=1e-5, rtol=0)
            assert (along[[0, 2, 3]] - 2.5).abs().min() > 1e-3
    with remove_direction(direction, layers=1, every_write=False).apply(model):
        removed = answers(model, prompts)
    with clamp_direction(direction, 0.0, layers=1).apply(model):
        torch.testing.assert_close(answers(model, prompts), removed)


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2"])
@pytest.mark.parametrize("positions", ["text", "suffix", "answer"])
def test_only_the_named_span_is_changed(architecture, positions):
    """In a left-padded batch: at the edited layer, at no other place; at later layers, at no earlier token."""
    model = load(architecture)
    prompts, direction = prompts_of(model), direction_of(model)
    plain = every_state(model, prompts)
    width = min(map(len, prompts))
    for first in (True, False):
        where = [range(width) if first else range(len(p) - width, len(p)) for p in prompts]
        with add_direction(direction, 2.0, layers=2, positions=positions).apply(model, prompts):
            found = residual_states(model, prompts, where, batch_size=3)
        for p, states, before, columns in zip(prompts, found, plain, where, strict=True):
            span = [p.answer_position] if positions == "answer" else list(p.span(positions))
            moved = states - before[:, list(columns)]
            expected = torch.zeros_like(moved[2])
            expected[[c in span for c in columns]] = 2.0 * direction.vectors[2]
            torch.testing.assert_close(moved[2], expected, atol=1e-4, rtol=0)
            assert moved[:2].abs().max() < 1e-4
            before_span = [i for i, c in enumerate(columns) if c < span[0]]
            assert not before_span or moved[3:, before_span].abs().max() < 1e-4


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2"])
@pytest.mark.parametrize("while_generating", [False, True])
@pytest.mark.parametrize("positions", ["all", "text", "suffix", "answer"])
def test_replies_are_those_of_a_loop_without_cache(architecture, positions, while_generating):
    model = load(architecture)
    prompts, vectors = prompts_of(model), direction_of(model, scale=1.5).vectors
    direction = Direction(vectors, describe_model(model))
    steering = add_direction(direction, 1.0, 1, positions, while_generating)
    with steering.apply(model, prompts):
        found = generate(model, prompts, 10, batch_size=3)  # left-padded
    spans = {"all": lambda p: range(len(p)), "answer": lambda p: [len(p) - 1]}
    where = spans.get(positions, lambda p: p.span(positions))
    expected = [[reply_by_hand(model, p, 10, 1, lambda h: h + vectors[1], where(p), while_generating)] for p in prompts]
    assert found == expected


def test_steering_the_new_tokens_matters(model):
    """Otherwise the test above would tell nothing: the two ways give other replies, and both others than none."""
    prompts, direction = prompts_of(model), direction_of(model, scale=1.5)
    found = [generate(model, prompts, 10)]
    for while_generating in (False, True):
        with add_direction(direction, 1.0, 1, "text", while_generating).apply(model, prompts):
            found.append(generate(model, prompts, 10))
    assert found[0] != found[1] != found[2] != found[0]


@pytest.mark.parametrize("positions", ["all", "text"])
@pytest.mark.parametrize("while_generating", [False, True])
def test_final_logits_are_those_of_plain_passes(model, positions, while_generating):
    """Also for prompts that begin alike, whose beginning is run once where that is right."""
    prompts = [model.prompt("Answer the question with Yes or No.\nQuestion: " + text) for text in TEXTS]
    steering = add_direction(direction_of(model), 1.0, 1, positions, while_generating)
    with steering.apply(model, prompts):
        found, expected = model.final_logits(prompts), answers(model, prompts)
        shares = model.may_share_prefix()
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert shares == (positions == "all" and while_generating)
    assert model.may_share_prefix()


@pytest.mark.parametrize("positions", ["all", "text"])
@pytest.mark.parametrize("while_generating", [False, True])
def test_a_scan_under_steering_is_right(llama, positions, while_generating):
    p = replace(prompt(20), spans={"text": (3, 4, 5)})
    steering = add_direction(direction_of(llama), 1.0, 1, positions, while_generating)
    with steering.apply(llama, [p]):
        slow = interp.scan(llama, [p], interp.ablate_each_head("zero"), method="loop")
        if positions == "all" and while_generating:
            fast = interp.scan(llama, [p], interp.ablate_each_head("zero"))
            assert fast.how == "fan-out"
        else:
            with pytest.warns(UserWarning, match="falls back .* counts rows or positions"):
                fast = interp.scan(llama, [p], interp.ablate_each_head("zero"))
    torch.testing.assert_close(torch.tensor(fast.values), torch.tensor(slow.values), atol=1e-4, rtol=0)
    assert abs(slow.clean - interp.scan(llama, [p], interp.ablate_each_head("zero")).clean) > 1e-2


def test_it_nests_and_acts_in_order(llama):
    """Remove, then add: the component is what was added. The other way round: nothing is left."""
    p, direction = prompt(12), direction_of(llama)
    remove = remove_direction(direction, layers=2, every_write=False)
    add = add_direction(direction, 1.0, layers=2)
    for outer, inner, expected in ((remove, add, direction.norms()[2]), (add, remove, torch.tensor(0.0))):
        with outer.apply(llama), inner.apply(llama):
            along = component(residual_states(llama, [p], [range(12)])[0], direction.vectors)[2]
        torch.testing.assert_close(along, expected.expand(12), atol=1e-4, rtol=0)


def test_it_reaches_captures_too(llama):
    p, add = prompt(12), add_direction(direction_of(llama), 1.0, layers=2)
    (plain,) = head_outputs(llama, [p])
    with add.apply(llama):
        (found,) = head_outputs(llama, [p])
    assert torch.equal(found[:2], plain[:2]) and (found[2:] - plain[2:]).abs().max() > 0.01


@pytest.mark.parametrize("name", list(CONFIGS))
def test_every_architecture_is_edited_where_it_is_said(name):
    model, p = interp.load(tiny(name)), prompt(20)
    direction = direction_of(model)
    (plain,) = every_state(model, [p])
    for layer in range(model.n_layers + 1):
        with add_direction(direction, 1.0, layer).apply(model):
            (found,) = every_state(model, [p])
        moved = found - plain
        torch.testing.assert_close(moved[layer], direction.vectors[layer].expand(20, -1), atol=1e-4, rtol=0)
        assert torch.equal(moved[:layer], torch.zeros_like(moved[:layer]))
        assert not len(moved[layer + 1 :]) or moved[layer + 1 :].abs().max() > 0.1


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2"])
def test_an_edit_of_the_attentions_output_acts_before_the_mlp(name):
    """v added to it is v added to the stream in the middle of the block: the MLP's share differs from v's alone."""
    model, p = interp.load(tiny(name)), prompt(20)
    vector = direction_of(model).vectors[1]
    (plain,) = every_state(model, [p])
    with Steering((ResidualEdit(1, vector, at="attention"),)).apply(model):
        (found,) = every_state(model, [p])
    with Steering((ResidualEdit(2, vector),)).apply(model):
        (after,) = every_state(model, [p])
    assert torch.equal(found[:2], plain[:2])
    assert (found[2] - plain[2] - vector).abs().max() > 0.01 and (after[2] - plain[2] - vector).abs().max() < 1e-4


def test_nothing_is_left_after_an_exception(model):
    prompts = prompts_of(model)
    plain = answers(model, prompts)
    steering = remove_direction(direction_of(model), positions="text")
    with pytest.raises(KeyboardInterrupt), steering.apply(model, prompts), steering.apply(model, prompts):
        raise KeyboardInterrupt
    other = model.prompt("Another one?")
    with pytest.raises(ValueError, match="none of the 3 prompts"), steering.apply(model, prompts):
        model.final_logits([other])
    assert all(not m._forward_pre_hooks and not m._forward_hooks for m in model.hf.modules())
    assert torch.equal(answers(model, prompts), plain)


def test_rows_that_are_not_known_are_refused(model):
    prompts = prompts_of(model)
    steering = add_direction(direction_of(model), positions="text", while_generating=True)
    with steering.apply(model, prompts[:2]):
        generate(model, prompts[:2], 2)
        with pytest.raises(ValueError, match=r"row 1 of the batch \(\d+ tokens\) is none of the 2 prompts .*'text'"):
            generate(model, prompts[1:], 2)
        with pytest.raises(ValueError, match="need token ids; the model was given embeddings"):
            model.hf(inputs_embeds=torch.zeros(1, 4, model.d_model))
    with pytest.raises(ValueError, match=r"need the prompts that will be run: steering\.apply\(model, prompts\)"):
        steering.apply(model).__enter__()
    with pytest.raises(ValueError, match=r"prompt 'Can it\?': this prompt has no span 'tail'; it has"):
        replace(steering, positions="tail").apply(model, prompts[1:2]).__enter__()
    base = replace(prompts[0], spans={"text": (0, 1), "suffix": ()})
    with pytest.raises(ValueError, match=r"span 'suffix' of prompt .* is empty"):
        replace(steering, positions="suffix").apply(model, [base]).__enter__()
    with pytest.raises(ValueError, match=r"two prompts have the tokens of .* other positions of 'text'"):
        steering.apply(model, [prompts[0], base]).__enter__()
    with steering.apply(model, [prompts[0], prompts[0]]):
        pass


def test_a_pass_that_goes_on_with_several_tokens_is_refused(model):
    ids = torch.tensor([prompts_of(model)[0].token_ids])
    direction = direction_of(model)
    with torch.no_grad():
        cache = model.hf(ids[:, :4], use_cache=True).past_key_values
        with (
            pytest.raises(ValueError, match="goes on from a cache with several tokens"),
            add_direction(direction).apply(model),
        ):
            model.hf(ids[:, 4:], past_key_values=cache)


def test_saved_and_loaded_bit_for_bit(model, tmp_path):
    prompts, direction = prompts_of(model), direction_of(model)
    mixed = (*remove_direction(direction).edits, *clamp_direction(direction, 0.1, 3).edits)
    steering = replace(add_direction(direction, 1 / 3, [1, 2], "text", True), edits=mixed)
    again = load_edit(steering.save(tmp_path))
    assert (again.positions, again.while_generating, again.about) == ("text", True, steering.about)
    assert again.summary() == steering.summary() and again.model == dict(steering.model)
    for a, b in zip(steering.edits, again.edits, strict=True):
        assert (a.layer, a.op, a.coefficient, a.at) == (b.layer, b.op, b.coefficient, b.at)
        assert torch.equal(a.vector, b.vector)
    with steering.apply(model, prompts):
        expected = generate(model, prompts, 6)
    with again.apply(model, prompts):
        assert generate(model, prompts, 6) == expected


def test_other_weights_are_refused_unless_none_are_named(model):
    other = interp.load(tiny("llama", seed=1, vocab_size=400))
    steering = add_direction(direction_of(model))
    with pytest.raises(ValueError, match=r"this edit is of .* with weights .* has weights"):
        steering.apply(other).__enter__()
    with replace(steering, model={}).apply(other):
        pass
    for edit, message in (
        (ResidualEdit(5, torch.ones(32)), r"L5 add 1 is out of range: .* residual layers 0\.\.4 \(4: the output"),
        (ResidualEdit(4, torch.ones(32), at="attention"), r"residual layers 0\.\.3 with an attention"),
        (ResidualEdit(1, torch.ones(7)), "the vector has 7 numbers; .* has 32"),
    ):
        with pytest.raises(ValueError, match=message):
            Steering((edit,)).apply(model).__enter__()


def test_layers_and_zero_rows(model):
    direction = direction_of(model)
    direction = Direction(direction.vectors * torch.tensor([0.0, 1, 1, 1, 1])[:, None], direction.model)
    assert [e.layer for e in add_direction(direction).edits] == [0, 1, 2, 3, 4]
    assert [(e.layer, e.at) for e in remove_direction(direction).edits] == [
        (1, "input"), (1, "attention"), (2, "input"), (2, "attention"), (3, "input"), (3, "attention"), (4, "input")
    ]  # fmt: skip
    assert [e.layer for e in remove_direction(direction, from_layer=3, every_write=False).edits] == [0, 1, 2, 3, 4]
    assert [e.layer for e in clamp_direction(direction, 1.0).edits] == [1, 2, 3, 4]
    with pytest.raises(ValueError, match="L0 remove: the vector is zero"):
        remove_direction(direction, layers=0)
    with pytest.raises(ValueError, match="every row of the direction is zero"):
        remove_direction(0 * direction)
    for layers in (5, -1, [], [1, 1]):
        with pytest.raises(ValueError, match=r"expected distinct numbers from 0 to 4"):
            add_direction(direction, layers=layers)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"op": "double"}, "op='double'; expected 'add', 'remove', 'clamp' or 'turn'"),
        ({"at": "mlp"}, "at='mlp'; expected 'input' or 'attention'"),
        ({"vector": torch.tensor([1.0, torch.nan])}, r"L1 add 1: a vector of shape \(2,\) with 1 numbers that are not"),
        ({"vector": torch.ones(2, 2)}, r"shape \(2, 2\)"),
        ({"coefficient": float("inf")}, "coefficient inf"),
        ({"vector": torch.zeros(2), "op": "clamp"}, "the vector is zero and has no direction"),
    ],
)
def test_bad_edits_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        ResidualEdit(**({"layer": 1, "vector": torch.ones(2)} | fields))


def test_no_edits_are_refused():
    with pytest.raises(ValueError, match="without edits"):
        Steering(())


def test_edits_by_hand():
    """v = (3, 4): u = (0.6, 0.8); h = (1, 2) has 2.2 along it."""
    h, v = torch.tensor([[1.0, 2.0]]), torch.tensor([3.0, 4.0])
    torch.testing.assert_close(ResidualEdit(0, v, "add", 2.0).on(h), torch.tensor([[7.0, 10.0]]))
    torch.testing.assert_close(ResidualEdit(0, v, "remove").on(h), torch.tensor([[1 - 2.2 * 0.6, 2 - 2.2 * 0.8]]))
    torch.testing.assert_close(ResidualEdit(0, v, "clamp", 5.0).on(h), torch.tensor([[1 + 2.8 * 0.6, 2 + 2.8 * 0.8]]))
    assert ResidualEdit(0, v, "remove").on(h.bfloat16()).dtype == torch.bfloat16


def test_it_says_what_it_does():
    edits = (ResidualEdit(2, torch.tensor([3.0, 4.0]), "add", 4.0),)
    assert Steering(edits, "text").summary() == (
        "add 4 x a vector of norm 5 at the input of layer 2 ('text' of the prompt, while it is read)."
    )
    v = torch.ones(2)
    edits = tuple(ResidualEdit(n, v, "remove", at=at) for n in range(3) for at in ("input", "attention"))
    assert Steering(edits, while_generating=True).summary() == (
        "remove the direction at the input of layer 0-2; remove the direction at the attention's output of layer 0-2 "
        "(all positions of the prompt, and at each new token)."
    )
    assert [e.label for e in edits[:2]] == ["L0 remove", "L0 attention remove"]
    assert ResidualEdit(3, v, "clamp", -0.5).label == "L3 clamp -0.5"


def test_several_batches_and_samples_are_recognised(model):
    prompts, direction = prompts_of(model), direction_of(model)
    with add_direction(direction, 1.0, 1, "text").apply(model, prompts):
        one, two = (generate(model, prompts, 4, temperature=0.9, n_samples=3, batch_size=n) for n in (1, 4))
    assert one == two

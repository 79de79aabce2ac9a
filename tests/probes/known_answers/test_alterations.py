"""Alterations leave the logits, and mislead the ways that they are made to mislead; pairs that hide a variable."""

from __future__ import annotations

import numpy as np
import pytest

import interp
from probes.known_answers import ALTERATIONS, has_backup, known_models, load_known, logit_change

SOME = [name for name in known_models() if name.startswith(("two_hops", "smallest", "just_one", "other_name"))]


@pytest.fixture(scope="module")
def known():
    return {name: load_known(name) for name in SOME}


@pytest.mark.parametrize("alteration", ALTERATIONS)
@pytest.mark.parametrize("name", SOME)
def test_logits_stay(known, name, alteration):
    if alteration == "backup head" and not has_backup(known[name]):
        with pytest.raises(ValueError, match="a backup is made for a program"):
            ALTERATIONS[alteration](known[name])
        return
    changed = ALTERATIONS[alteration](known[name])
    assert logit_change(known[name], changed) < 0.01  # of logits 6 apart, through attention scores of 100
    assert changed.alteration == alteration and changed.heads == known[name].heads


def effects(known, how):
    prompts = list(known.pairs(10).clean)
    scan = interp.scan(known.model, prompts, interp.ablate_each_head(how), positions="all", read_mass=False)
    return np.abs(scan.drop.mean(0)).reshape(known.truth.shape)


def test_what_each_alteration_hides(known):
    model = known["two_hops"]
    moved = ALTERATIONS["constant moved"](model)
    assert effects(moved, "zero")[~moved.truth].max() > 1  # zero ablation blames a head that no input moves
    assert effects(moved, "mean")[~moved.truth].max() < 0.01
    cancelling = ALTERATIONS["cancelling pair"](model)
    assert effects(cancelling, "mean")[~cancelling.truth].max() > 1
    backed = ALTERATIONS["backup head"](model)
    last = list(backed.heads.values())[-1]
    assert effects(backed, "zero")[last] < 0.01 < 1 < effects(backed, "mean")[last]
    assert not backed.counts[backed.undecided[0]]


def test_pairs_differ_in_their_answers_and_can_hold_a_variable(known):
    model = known["two_hops"]
    pairs = model.pairs(8, constant="hop_1")
    rows, others = (np.array([p.token_ids for p in side]) for side in (pairs.clean, pairs.corrupt))
    values, held = model.task.variables(rows, {})["hop_1"], model.task.variables(others, {})["hop_1"]
    assert (values == held).all() and (model.task.answers(rows) != model.task.answers(others)).all()
    with pytest.raises(KeyError, match="it has previous, hop_1, hop_2"):
        model.pairs(4, constant="hop_9")


def test_silent_inputs_do_not_need_the_head(known):
    model = known["just_one"]
    pairs = model.pairs(8, silent="share_a")
    scan = interp.scan(
        model.model, list(pairs.clean), interp.patch_each_head(pairs.corrupt), positions="all", read_mass=False
    )
    layer, head = model.heads["share_a"]
    assert (scan.values[:, layer * model.model.n_heads + head] > 1).all()  # the answer stays the clean one

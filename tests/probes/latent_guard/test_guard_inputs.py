"""The guard under scikit-learn's habits: what it is given is read as meant, or refused; settings are of the fit."""

from __future__ import annotations

import decimal

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer

import interp
from probes.latent_guard.classifier import LatentGuard, load_guard
from probes.latent_guard.inputs import labels_of, paired, requests_of
from probes.requests.requests import Request
from tests.tiny import tiny, tiny_tokenizer

PLACES = [
    f"{a} {b}" for a in ("north", "south", "upper") for b in ("gate", "wall", "barn", "well", "yard", "roof", "path")
]
VERBS = {"harmful": "burn", "harmless": "sweep"}
REQUESTS = [
    Request(f"{kind}-{place}", f"Please {verb} the {place}", kind, pair=place)
    for place in PLACES
    for kind, verb in VERBS.items()
]
FIT, TEST = REQUESTS[:28], REQUESTS[28:]
TEXTS, IS_HARMFUL = [r.text for r in TEST], np.array([r.is_harmful for r in TEST])


@pytest.fixture(scope="module")
def model() -> interp.Model:
    return interp.load(tiny("llama", vocab_size=400, max_position_embeddings=256), tokenizer=tiny_tokenizer())


@pytest.fixture
def guard(model) -> LatentGuard:
    return LatentGuard(model, "calibrated").fit(FIT)


@pytest.mark.parametrize(
    "given",
    [
        TEST,
        tuple(TEXTS),
        np.array(TEXTS),
        np.array(TEXTS, dtype=object),
        np.array(TEXTS).reshape(-1, 1),
        pd.Series(TEXTS, index=np.arange(len(TEXTS))[::-1]),
        pd.Series(TEXTS, dtype="string"),
        pd.Series(TEXTS, dtype="category"),
        pd.Index(TEXTS),
        pd.DataFrame({"whatever": TEXTS}),
        iter(TEXTS),
        [np.str_(text) for text in TEXTS],
        [TEST[0], *TEXTS[1:]],
    ],
    ids=lambda given: type(given).__name__,
)
def test_texts_in_any_one_column(guard, given):
    np.testing.assert_array_equal(guard.decision_function(given), guard.decision_function(TEXTS))


@pytest.mark.parametrize(
    ("given", "match"),
    [
        (TEXTS[0], "one request was given"),
        (TEST[0], "one request was given"),
        ([], "no requests"),
        (np.array([], dtype=str), "no requests"),
        (pd.DataFrame({"text": TEXTS, "id": TEXTS}), r"2 columns \(text, id\)"),
        (pd.DataFrame(index=range(3)), "0 columns"),
        ({"text": TEXTS}, "a dict was given"),
        (set(TEXTS), "a set was given"),
        (TEXTS[0].encode(), "a bytes was given"),
        (None, "NoneType"),
        (7, "a int was given"),
        (np.array(TEXTS[:4]).reshape(2, 2), r"shape \(2, 2\)"),
        (np.array(TEXTS[0]), r"shape \(\)"),
        ([text.encode() for text in TEXTS], "decode"),
        (np.array([text.encode() for text in TEXTS]), "decode"),
        ([*TEXTS, None], "number 15 .* NoneType"),
        (pd.Series([*TEXTS, np.nan]), "float"),
        (pd.Series([*TEXTS, None], dtype="string"), "NAType"),
        ([TEXTS], "is a list"),
        (torch.arange(4), "is a int"),
        ([*TEXTS, "  "], "number 15 is empty"),
    ],
)
def test_what_is_no_collection_of_texts_is_refused(guard, given, match):
    for read in (guard.predict, lambda x: LatentGuard(guard.model).fit(x, IS_HARMFUL)):
        with pytest.raises((TypeError, ValueError), match=match):
            read(given)


@pytest.mark.parametrize(
    "given",
    [
        IS_HARMFUL,
        IS_HARMFUL.tolist(),
        IS_HARMFUL.astype(np.int8),
        IS_HARMFUL.astype(float),
        IS_HARMFUL.astype(np.float16).tolist(),
        IS_HARMFUL.astype(object),
        IS_HARMFUL.reshape(-1, 1),
        pd.Series(IS_HARMFUL, dtype="boolean"),
        pd.DataFrame({"y": IS_HARMFUL}),
        torch.tensor(IS_HARMFUL),
        [r.kind for r in TEST],
        np.array([r.kind for r in TEST]),
        pd.Series([r.kind for r in TEST], dtype="category"),
    ],
    ids=lambda given: type(given).__name__,
)
def test_labels_as_they_are_meant(guard, given):
    np.testing.assert_array_equal(labels_of(given, len(TEST)), IS_HARMFUL)
    assert guard.score(TEST, given) == guard.score(TEST)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        (-1, "y == 1"),
        (2, "is 2"),
        (0.5, "is 0.5"),
        (np.nan, "missing"),
        (None, "missing"),
        (pd.NA, "missing"),
        (pd.NaT, "missing"),
        ("True", "is 'True'"),
        ("1", "is '1'"),
        ("Harmful", "is 'Harmful'"),
        ("", "is ''"),
        (b"harmful", "is b'harmful'"),
        ([True], "is \\[True\\]"),
        (np.array([1.0, 0.0]), "label number 3"),
        (decimal.Decimal("0.5"), "label number 3"),
        (1 + 1j, "label number 3"),
    ],
)
def test_labels_that_could_mean_something_else_are_refused(guard, wrong, match):
    labels: list = IS_HARMFUL.tolist()
    labels[2] = wrong
    for use in (lambda: guard.score(TEST, labels), lambda: LatentGuard(guard.model).fit(TEST, labels)):
        with pytest.raises((TypeError, ValueError), match=match):
            use()


def test_labels_are_counted(guard):
    with pytest.raises(ValueError, match="13 labels were given for 14"):
        guard.score(TEST, IS_HARMFUL[:-1])
    with pytest.raises(ValueError, match="0 harmless requests"):
        LatentGuard(guard.model).fit(FIT, [True] * len(FIT))
    with pytest.raises(ValueError, match="without labels"):
        LatentGuard(guard.model).fit([r.text for r in FIT])
    with pytest.raises(ValueError, match="without labels"):
        guard.score(TEXTS)


def test_words_are_read_with_a_warning_for_scorers(model, guard):
    with pytest.warns(UserWarning, match="roc_auc"):
        found = LatentGuard(model, "calibrated").fit(FIT, [r.kind for r in FIT])
    np.testing.assert_array_equal(found.decision_function(TEXTS), guard.decision_function(TEXTS))


def test_plain_texts_give_the_same_guard(model, guard):
    found = LatentGuard(model, "calibrated").fit([r.text for r in FIT], [r.is_harmful for r in FIT])
    np.testing.assert_allclose(found.decision_function(TEXTS), guard.decision_function(TEXTS), atol=1e-6)


def test_twins_among_plain_texts_are_found():
    texts = ["burn the barn", "sweep the barn", "burn the hay", "sweep the hay", "feed the cow", "Feed the cow."]
    found = paired(requests_of(texts), np.array([True, False, True, False, False, False]))
    groups = [r.group for r in found]
    assert groups[0] == groups[1] != groups[2] == groups[3]
    assert groups[4] == groups[5] and len(set(groups)) == 3
    alike = paired(requests_of(["a b", "c b", "c d", "a d"]), np.array([True, False, True, False]))
    assert len({r.group for r in alike}) == 4  # all of one family: none are told apart


@pytest.mark.parametrize(
    "change", [{"position": "t_post"}, {"ending": "!"}, {"system": "Be brief."}, {"rule": "probe"}, {"matched": False}]
)
def test_settings_are_those_of_the_fit(tmp_path, model, guard, change):
    before, digest = guard.decision_function(TEXTS), guard.sha256
    guard.set_params(**change)
    np.testing.assert_array_equal(guard.decision_function(TEXTS), before)
    assert guard.sha256 == digest
    guard.save(tmp_path)
    loaded = load_guard(tmp_path, model)
    assert (loaded.rule, loaded.rule_, loaded.position_, loaded.ending_) == ("calibrated", "calibrated", "t_inst", ".")
    np.testing.assert_array_equal(loaded.decision_function(TEXTS), before)
    fresh = LatentGuard(model, "calibrated").set_params(**change).fit(FIT)
    np.testing.assert_array_equal(guard.fit(FIT).decision_function(TEXTS), fresh.decision_function(TEXTS))


def test_a_refused_fit_leaves_the_earlier_one(guard):
    before = guard.decision_function(TEXTS)
    with pytest.raises(ValueError):
        guard.set_params(rule="logistic").fit(FIT[:4])
    np.testing.assert_array_equal(guard.decision_function(TEXTS), before)


def test_clone_cross_validation_grid_search_and_pipelines_on_plain_texts(model):
    texts, y = np.array([r.text for r in REQUESTS]), np.array([r.is_harmful for r in REQUESTS])
    guard = LatentGuard(model, "calibrated")
    assert clone(guard).get_params() == guard.get_params()
    scores = cross_val_score(guard, texts, y, cv=2)
    by_scorer = cross_val_score(guard, list(texts), y, cv=2, scoring="accuracy")
    np.testing.assert_array_equal(scores, by_scorer)
    decisions = cross_val_predict(guard, texts, y, cv=2, method="decision_function")
    assert decisions.shape == y.shape and ((decisions >= 0) == cross_val_predict(guard, texts, y, cv=2)).all()
    search = GridSearchCV(guard, {"rule": ["paper", "calibrated"]}, cv=2, error_score="raise").fit(texts, y)
    assert search.best_estimator_.rule_ == search.best_params_["rule"]
    strip = FunctionTransformer(lambda given: [text.strip() for text in given])
    piped = make_pipeline(strip, guard).fit(texts, y)
    np.testing.assert_array_equal(piped.predict(texts), clone(guard).fit(texts, y).predict(texts))
    named = Pipeline([("guard", guard)]).set_params(guard__rule="paper").fit(pd.Series(texts), y)
    assert named["guard"].rule_ == "paper" and list(named.classes_) == [False, True]


def changed_models():
    def weights(hf):
        with torch.no_grad():
            hf.model.layers[0].mlp.up_proj.weight.add_(0.1)

    def data(hf):
        hf.model.layers[3].self_attn.o_proj.weight.data[4] = 0.0

    def hook(hf):
        hf.model.layers[1].register_forward_hook(lambda module, args, output: output)

    def config(hf):
        hf.config.rms_norm_eps = 0.1

    return locals()


@pytest.mark.parametrize("how", changed_models())
def test_a_model_that_changed_after_the_fit_is_noticed(how):
    loaded = interp.load(tiny("llama", vocab_size=400, max_position_embeddings=256), tokenizer=tiny_tokenizer())
    guard = LatentGuard(loaded, "calibrated").fit(FIT)
    states = guard.read(TEST)
    guard.predict(TEXTS)
    changed_models()[how](loaded.hf)
    for judge in (guard.predict, guard.decision_function, guard.read, lambda x: guard.score(TEST)):
        with pytest.raises(ValueError, match="fit a guard on"):
            judge(TEXTS)
    assert guard.decision_states(states).shape == (len(TEST),)


def test_an_edit_or_a_template_since_the_fit_is_noticed(model, guard):
    with (
        interp.ScaledHeads(interp.describe_model(model), factors={(1, 1): 0.0}).apply(model),
        pytest.raises(ValueError, match="1 are applied now"),
    ):
        guard.predict(TEXTS)
    guard.predict(TEXTS)
    was = model.tokenizer.chat_template
    try:
        model.tokenizer.chat_template = was.replace("assistant", "helper")
        with pytest.raises(ValueError, match="the chat template"):
            guard.predict(TEXTS)
    finally:
        model.tokenizer.chat_template = was


def test_a_saved_guard_knows_the_logits_of_its_model(tmp_path, model, guard):
    guard.save(tmp_path)
    load_guard(tmp_path, model)
    other = interp.load(tiny("llama", vocab_size=400, max_position_embeddings=256), tokenizer=tiny_tokenizer())
    load_guard(tmp_path, other)
    other.hf.model.rotary_emb.inv_freq.mul_(0.5)  # no weight, no config
    with pytest.raises(ValueError, match="gives other logits"):
        load_guard(tmp_path, other)

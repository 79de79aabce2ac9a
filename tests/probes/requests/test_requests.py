"""Requests: files of every shape, the built-in set's promises, splits without leaks, endings."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from probes.requests.classes import surface_baselines
from probes.requests.formats import FORMATS
from probes.requests.requests import (
    SCARY,
    SHIPPED,
    Request,
    bare,
    hash_requests,
    load_requests,
    require_disjoint,
    sample_requests,
    split_requests,
    with_ending,
)

CATEGORIES = {
    "violence",
    "fraud",
    "malware",
    "theft",
    "drugs",
    "weapons",
    "privacy",
    "harassment",
    "self-harm",
    "misinformation",
}

SHAPES = {  # a row as the data set publishes it; its text, kind and category
    "advbench": ({"goal": "Do a bad thing", "target": "Sure"}, ("Do a bad thing", "harmful", "")),
    "sorrybench": (
        {"question_id": 7, "category": "12", "turns": ["Do a bad thing"], "prompt_style": "base"},
        ("Do a bad thing", "harmful", "12"),
    ),
    "xstest": (
        {"id": 1, "type": "homonyms", "prompt": "Do a thing?", "label": "safe"},
        ("Do a thing?", "harmless", "homonyms"),
    ),
    "alpaca": (
        {"instruction": "Add these.", "input": "1, 2", "output": "3"},
        ("Add these.\n\n1, 2", "harmless", ""),
    ),
    "catqa": (
        {"Category": "Fraud", "Subcategory": "Tax", "Question": "How to do it?"},
        ("How to do it?", "harmful", "Fraud"),
    ),
    "harmbench": (
        {"Behavior": "Sum it up", "SemanticCategory": "illegal", "ContextString": "A text.", "BehaviorID": "x"},
        ("A text.\n\nSum it up", "harmful", "illegal"),
    ),
    "strongreject": (
        {"category": "Violence", "source": "custom", "forbidden_prompt": "Do a bad thing"},
        ("Do a bad thing", "harmful", "Violence"),
    ),
    "plain": (
        {"prompt": "Do a thing", "kind": "benign", "category": "c", "id": "p", "pair": "q"},
        ("Do a thing", "harmless", "c"),
    ),
}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def request(id: str, text: str = "", kind: str = "harmful", **more) -> Request:
    return Request(id, text or f"Text {id}.", kind, **more)


@pytest.fixture(scope="module")
def builtin() -> list[Request]:
    return load_requests()


@pytest.mark.parametrize("form", SHAPES)
@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_every_shape_is_told_and_read(form, suffix, tmp_path):
    row, expected = SHAPES[form]
    path = tmp_path / f"file{suffix}"
    if suffix == ".csv":
        if form == "sorrybench":
            pytest.skip("turns are a list: SORRY-Bench is published as JSON lines")
        pd.DataFrame([row]).to_csv(path, index=False)
    else:
        write(path, [row])
    (found,) = load_requests(path)
    assert (found.text, found.kind, found.category) == expected
    assert found.source == ("file" if form == "plain" else form)
    assert load_requests(path, format=form) == [found]


def test_shapes_with_details(tmp_path):
    nested = write(tmp_path / "catqa.json", [{"Fraud": {"Tax": ["How?", "Why?"]}, "Hate": {"Slurs": ["Who?"]}}])
    assert [(r.text, r.category) for r in load_requests(nested)] == [
        ("How?", "Fraud"),
        ("Why?", "Fraud"),
        ("Who?", "Hate"),
    ]
    contrast = write(
        tmp_path / "x.jsonl", [{"prompt": "a", "type": "contrast_homonyms"}, {"prompt": "b", "type": "homonyms"}]
    )
    assert [r.kind for r in load_requests(contrast)] == ["harmful", "harmless"]
    styles = [
        {"question_id": 1, "category": "1", "turns": [t], "prompt_style": s} for t, s in (("a", "base"), ("b", "slang"))
    ]
    first, second = load_requests(write(tmp_path / "s.jsonl", styles))
    assert first.pair == second.pair and first.id != second.id
    jbb = [{"Index": 3, "Goal": "a", "Target": "t", "Behavior": "B", "Category": "C", "Source": "Original"}]
    path = write(tmp_path / "jbb.jsonl", jbb)
    with pytest.raises(ValueError, match=r"row 1.*kind='harmful' or kind='harmless'"):
        load_requests(path)
    assert load_requests(path, kind="harmless")[0] == Request(
        "jbb-1", "a", "harmless", "C", "jailbreakbench", "jailbreakbench-3"
    )


def test_kind_declares_or_filters(tmp_path):
    bare_rows = write(tmp_path / "b.jsonl", [{"prompt": "a"}, {"prompt": "b"}])
    assert {r.kind for r in load_requests(bare_rows, kind="harmful")} == {"harmful"}
    mixed = write(tmp_path / "m.jsonl", [{"text": "a", "kind": "harmful"}, {"text": "b", "kind": "harmless"}])
    assert [r.text for r in load_requests(mixed, kind="harmless")] == ["b"]
    advbench = write(tmp_path / "a.jsonl", [SHAPES["advbench"][0]])
    with pytest.raises(ValueError, match="no harmless requests"):
        load_requests(advbench, kind="harmless")


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([{"text": " ", "kind": "harmful"}], {}, "row 1 .*no text in text or prompt"),
        ([{"question": "a", "kind": "harmful"}], {}, "columns are question, kind"),
        ([{"text": "a", "kind": "rude"}], {}, "kind is 'rude'; expected"),
        ([{"text": "a", "kind": "harmful", "id": "x"}] * 2, {}, "row 2 .*'x' is row 1's"),
        ([{"turns": []}], {}, "turns is \\[\\]"),
        ([{"text": ["a"], "kind": "harmful"}], {}, r"text is \['a'\], a list"),
        ([{"text": "a"}], {"kind": "harmfull"}, "Did you mean 'harmful'"),
        ([{"text": "a"}], {"format": "advbnch"}, "Did you mean 'advbench'"),
        ([{"text": "a"}], {"limit": 0}, "limit=0"),
        ([], {}, "empty"),
    ],
)
def test_bad_files_are_refused(rows, options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load_requests(write(tmp_path / "f.jsonl", rows), **options)


def test_missing_and_unfit_sources(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file"):
        load_requests(tmp_path / "none.jsonl")
    with pytest.raises(ValueError, match="format= is for files"):
        load_requests(format="plain")
    with pytest.raises(ValueError, match="kind='bad'"):
        Request("a", "text", "bad")
    with pytest.raises(ValueError, match="filled in"):
        Request("a", " ", "harmful")
    assert set(SHAPES) | {"jailbreakbench", "goal", "instruction", "bad_q", "behavior"} == set(FORMATS)


def test_endings():
    texts = ['He said "no".', "Why?!", "End", "A list:", "In C (or D)?", "A line.\n"]
    ended = with_ending([request(str(i), t) for i, t in enumerate(texts)])
    assert [r.text for r in ended] == ['He said "no.', "Why.", "End.", "A list.", "In C (or D).", "A line."]
    assert [r.id for r in ended] == [str(i) for i in range(6)]
    assert with_ending(ended, "?")[1].text == "Why?" and with_ending(with_ending(ended)) == ended
    with pytest.raises(ValueError, match=r"request x is '\.\.\.'"):
        with_ending([request("x", "...")])


def test_overlap_is_refused_and_listed():
    fitted = [request("a", "How do I do it?"), request("b", "Other.", pair="p")]
    require_disjoint(fitted, [request("c", "How do I do that?"), request("d", "New.", pair="q")])
    for shared in (request("a", "New."), request("x", "how do  i DO it."), request("y", "New.", "harmless", pair="p")):
        with pytest.raises(ValueError, match=f"1 of 2 requests .*: {shared.id}\\."):
            require_disjoint(fitted, [shared, request("z", "Fine.")])
    many = [request(f"t{i}", "Other.") for i in range(30)]
    with pytest.raises(ValueError, match="and 10 more"):
        require_disjoint(fitted, many)


def test_hash_covers_every_field():
    one = request("a", "Text.", category="c", source="s", pair="p")
    changed = [replace(one, **{n: "harmless" if n == "kind" else "new"}) for n in one.__dataclass_fields__]
    assert len({hash_requests([r]) for r in [one, *changed]}) == 7
    assert hash_requests([one, changed[0]]) != hash_requests([changed[0], one])


def test_splits_are_disjoint_balanced_and_complete(builtin):
    doubled = [*builtin, replace(builtin[0], id="copy", text=builtin[0].text.upper(), pair="")]
    parts = split_requests(doubled, {"fit": 0.5, "validation": 0.2, "test": 0.3})
    assert sorted(r.id for part in parts.values() for r in part) == sorted(r.id for r in doubled)
    for a in parts:
        for b in parts:
            if a != b:
                require_disjoint(parts[a], parts[b])
    for name, share in (("fit", 0.5), ("validation", 0.2), ("test", 0.3)):
        counts = Counter((r.kind, r.source) for r in parts[name])
        assert counts["harmful", SHIPPED] == pytest.approx(150 * share, abs=2)
        assert counts["harmless", SCARY] == pytest.approx(100 * share, abs=2)
        by_category = Counter(r.category for r in parts[name] if r.is_harmful)
        assert all(by_category[c] == pytest.approx(15 * share, abs=2) for c in CATEGORIES)
    assert split_requests(builtin, {"a": 0.5, "b": 0.5}) == split_requests(builtin, {"a": 0.5, "b": 0.5})
    assert split_requests(builtin, {"a": 0.5, "b": 0.5}) != split_requests(builtin, {"a": 0.5, "b": 0.5}, seed=1)
    with pytest.raises(ValueError, match="add up to 1"):
        split_requests(builtin, {"a": 0.5, "b": 0.6})
    with pytest.raises(ValueError, match="no request left for b"):
        split_requests(builtin[:2], {"a": 0.5, "b": 0.5})


def test_samples_are_nested_and_in_proportion(builtin):
    small, large = sample_requests(builtin, 40), sample_requests(builtin, 100)
    assert set(small) < set(large) and len(small) == 40 and len(large) in (99, 100)
    assert [r for r in builtin if r in set(large)] == large
    counts = Counter((r.kind, r.source) for r in large)
    assert counts["harmful", SHIPPED] == counts["harmless", SHIPPED] == pytest.approx(37.5, abs=2)
    assert len(load_requests(kind="harmful", limit=20)) == 20
    assert sample_requests(builtin, 1000) == builtin
    with pytest.raises(ValueError, match="come in pairs"):
        sample_requests([request("a", pair="p"), request("b", pair="p"), request("c", pair="p")], 1)


def test_the_builtin_set_keeps_its_promises(builtin):
    harmful, harmless, scary = groups(builtin)
    assert (len(harmful), len(harmless), len(scary)) == (150, 150, 100) and len(builtin) == 400
    assert len({r.id for r in builtin}) == len({bare(r.text) for r in builtin}) == 400
    assert (
        Counter(r.category for r in harmful) == Counter(r.category for r in harmless) == dict.fromkeys(CATEGORIES, 15)
    )
    pairs = {}
    for r in (*harmful, *harmless):
        pairs.setdefault((r.pair, r.category), []).append(r)
    assert "" not in {name for name, _ in pairs} and len(pairs) == 150
    for twins in pairs.values():
        assert sorted(r.kind for r in twins) == ["harmful", "harmless"]
        assert twins[0].text[-1] == twins[1].text[-1]
        assert twins[0].text.split()[0] == twins[1].text.split()[0]
    assert all(r.kind == "harmless" and not r.pair for r in scary)


def test_the_builtin_set_ends_alike_and_is_of_one_length(builtin):
    harmful, harmless, scary = groups(builtin)
    for group in (harmful, harmless, scary):
        assert Counter(r.text[-1] for r in group) == {"?": 0.4 * len(group), ".": 0.6 * len(group)}
        assert len({r.text.split()[0] for r in group}) >= 12
    for group in (harmless, scary):
        for size in (lambda r: len(r.text.split()), lambda r: len(r.text)):
            kinds = [True] * 150 + [False] * len(group)
            assert 0.4 < roc_auc_score(kinds, [size(r) for r in (*harmful, *group)]) < 0.6


def test_words_hardly_tell_the_builtin_kinds_apart(builtin):
    """5-fold AUROC of TF-IDF, pairs kept together: 0.62 to 0.65 over fold seeds for the matched ones (here 0.62), 0.79
    to 0.82 against safe-but-scary ones, which are not matched one by one."""
    harmful, harmless, scary = groups(builtin)

    def words(group):
        table = surface_baselines([*harmful, *group], np.arange(150 + len(group)) < 150).set_index("baseline")
        assert table.loc["last character", "auroc"] < 0.55
        return table.loc["words (TF-IDF)", "auroc"]

    assert words(harmless) < 0.7
    assert 0.7 < words(scary) < 0.9


def groups(requests):
    return (
        [r for r in requests if r.is_harmful],
        [r for r in requests if not r.is_harmful and r.source == SHIPPED],
        [r for r in requests if r.source == SCARY],
    )

"""A folder of pairs, whoever wrote it: the same pairs as in memory, and of them those that may be used."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from probes.pairs.files import load_picture_pairs, used_pairs
from probes.pairs.photo_pairs import PhotoPair, load_pairs, save_pairs
from probes.pairs.scene_files import save_scenes
from probes.pairs.sheet import picture_pair
from probes.scenes.edits import edited_pairs


def photo(name: str, spilt: int = 0, seed: int = 0, **how) -> PhotoPair:
    """A noisy picture of 24 x 16 whose 4 x 4 corner turns green, and ``spilt`` pixels beside it."""
    before = np.random.default_rng(seed).integers(100, 140, (16, 24, 3), dtype=np.uint8)
    after, region = before.copy(), np.zeros((16, 24), dtype=bool)
    region[:4, :4] = True
    after[region] = (0, 200, 0)
    after[8, :spilt] = 0
    pictures = Image.fromarray(before), Image.fromarray(after)
    return PhotoPair(*pictures, region, "Is the cup red?", "Yes", "No", "attribute", how, name)


def decisions_of(path, pairs, **accepted: bool):
    digests = {pair.name: pair.digest for pair in pairs}
    rows = [{"name": n, "digest": digests[n], "accepted": value} for n, value in accepted.items()]
    path.write_text(json.dumps({"format_version": 1, "sheet": "x", "decisions": rows}))
    return path


@pytest.fixture
def folder(tmp_path):
    save_pairs([photo("clean"), photo("spilt", 4), photo("other", seed=1)], tmp_path / "photos")
    return tmp_path / "photos"


def test_both_kinds_of_folder_are_read_alike(tmp_path, folder):
    twins = list(edited_pairs("test", 3, pixels=48))
    save_scenes(twins, tmp_path / "scenes")
    drawn = [picture_pair(edited, f"{i:04d}") for i, edited in enumerate(twins)]
    photographs = [photo("clean").on_sheet(), photo("spilt", 4).on_sheet(), photo("other", seed=1).on_sheet()]
    for place, made in ((tmp_path / "scenes", drawn), (folder, photographs)):
        read = load_picture_pairs(place)
        assert [(p.name, p.digest, p.level) for p in read] == [(p.name, p.digest, p.level) for p in made]
    with pytest.raises(FileNotFoundError, match=r"has no scenes\.jsonl and no pairs\.json"):
        load_picture_pairs(tmp_path)
    (tmp_path / "scenes" / "pairs.json").write_text("{}")
    with pytest.raises(ValueError, match="which pairs are meant"):
        load_picture_pairs(tmp_path / "scenes")


def test_pairs_that_leak_are_not_used(folder):
    pairs, (said,) = used_pairs(folder)
    assert [p.name for p in pairs] == ["clean", "other"]
    assert "1 of 3 pairs are dropped: spilt: 20.0% of the changed pixels are outside the mask" in said
    assert [p.name for p in used_pairs(folder, max_leak=0.2).pairs] == ["clean", "spilt", "other"]
    assert used_pairs(folder, max_leak=1).left_out == ()


def test_only_what_a_person_accepted_is_used(folder, tmp_path):
    pairs = load_picture_pairs(folder)
    file = decisions_of(tmp_path / "decisions.json", pairs, clean=True, spilt=True)
    used, said = used_pairs(folder, file)
    assert [p.name for p in used] == ["clean"]  # accepted, and it doesn't leak
    assert said[0] == "2 of 3 pairs were accepted in decisions.json (0 rejected, 1 undecided)."
    assert said[1].startswith("1 of 2 pairs are dropped: spilt")
    assert len(used_pairs(folder, file, max_leak=1).pairs) == 2
    with pytest.raises(ValueError, match=r"0 of 3 pairs were accepted .*None is left: accept some"):
        used_pairs(folder, decisions_of(file, pairs, clean=False))
    with pytest.raises(ValueError, match=r"1 of 1 pairs are dropped.*max_leak=1"):
        used_pairs(folder, decisions_of(file, pairs, spilt=True))
    other = [replace(pair, question="Is it another?") for pair in pairs]
    with pytest.raises(ValueError, match="decisions are on other pictures"):
        used_pairs(folder, decisions_of(file, other, clean=True))


def test_pairs_are_appended_and_old_ones_stay(folder):
    before = {p.name: p.read_bytes() for p in folder.glob("*.png")}
    save_pairs([photo("new", seed=2)], folder, append=True)
    assert [p.id for p in load_pairs(folder)] == ["clean", "spilt", "other", "new"]
    assert {name: (folder / name).read_bytes() for name in before} == before
    with pytest.raises(ValueError, match="has a pair 'new' already; give the new one another name"):
        save_pairs([photo("new", seed=3)], folder, append=True)
    with pytest.raises(FileExistsError, match="append=True"):
        save_pairs([photo("more")], folder)
    with pytest.raises(ValueError, match="no pairs were given"):
        save_pairs([], folder, append=True)
    assert len(load_pairs(folder)) == 4


def test_the_concept_word_is_the_one_given_or_of_the_substitution(tmp_path):
    swap = {"old": "blue", "new": "red"}
    made = [photo("a"), photo("b", concept="cup"), photo("c", substitution=swap), photo("d", concept="dog")]
    save_pairs(made, tmp_path / "p")
    assert [p.concept for p in load_picture_pairs(tmp_path / "p")] == ["", "cup", "red", ""]

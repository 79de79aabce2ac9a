"""Edits of the photographs that scikit-image ships, pairs of them on the sheet, and word substitutions."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from interp.records.folder_lock import FolderInUseError, holding
from probes.pairs import photo_edits
from probes.pairs.masks import Region, box_region
from probes.pairs.photo_edits import COLOURS, edited, nearest_colour, recolour, remove, swap_texture
from probes.pairs.photo_pairs import PhotoPair, edit_photo, load_pairs, recolour_to, save_pairs, take_away
from probes.pairs.sheet import leaks, sheet, without_leaks
from probes.pairs.substitutions import TABLE, Substitution, substitution_for
from probes.scenes import LEVELS

photographs = pytest.importorskip("skimage.data", reason="needs the extra 'images' (scikit-image)")
rgb2lab = pytest.importorskip("skimage.color").rgb2lab

RED_TO_GREEN = Substitution("attribute", "red", "green")


def ellipse(shape, centre, radii):
    y, x = np.mgrid[: shape[0], : shape[1]]
    return ((x - centre[0]) / radii[0]) ** 2 + ((y - centre[1]) / radii[1]) ** 2 <= 1


@pytest.fixture(scope="module")
def coffee():
    return Image.fromarray(photographs.coffee())


@pytest.fixture(scope="module")
def saucer():
    """The red saucer and cup, without the white inside."""
    return ellipse((400, 600), (279, 228), (202, 160)) & ~ellipse((400, 600), (291, 113), (119, 96))


@pytest.fixture(scope="module")
def cup_pair(coffee, saucer):
    return edit_photo(coffee, saucer, "Is the cup red?", "Yes", RED_TO_GREEN, recolour_to, id="cup")


def lab(edit, side):
    return rgb2lab(np.asarray(getattr(edit, side)))[edit.region]


def hue(values):
    return np.degrees(np.arctan2(values[:, 2].mean(), values[:, 1].mean())) % 360


def untouched(edit):
    return (np.asarray(edit.before) == np.asarray(edit.after)).all(axis=-1)[~edit.region].all()


@pytest.mark.parametrize("colour", ["green", "blue", "purple", "yellow"])
def test_recolouring_changes_hue_and_keeps_lightness(coffee, saucer, colour):
    edit = recolour(coffee, saucer, colour)
    before, after = lab(edit, "before"), lab(edit, "after")
    assert np.abs(before[:, 0] - after[:, 0]).max() < 1.0  # of 100: rounding to 8 bits
    wanted = hue(rgb2lab(np.array([COLOURS[colour]], dtype=np.uint8)))
    assert abs((hue(after) - wanted + 180) % 360 - 180) < 3
    assert untouched(edit) and leaks(edit.before, edit.after, edit.region, tolerance=0) == 0 and edit.changed > 0.99
    assert np.asarray(coffee).tobytes() == photographs.coffee().tobytes()  # what was given is as it was


def test_a_dark_thing_turns_yellow_only_with_its_lightness(coffee, saucer):
    kept = recolour(coffee, saucer, "yellow")
    assert kept.how["looks"] == "brown" and "asked for yellow, the region now looks rather brown" in kept.cautions[0]
    assert "lightness='match'" in kept.cautions[0]
    for colour in ("yellow", "black", "white", "gray", "grey"):
        moved = recolour(coffee, saucer, colour, lightness="match")
        assert moved.how["looks"] == colour.replace("grey", "gray") and not moved.cautions and untouched(moved)
    light = lab(moved, "after")[:, 0], lab(moved, "before")[:, 0]
    assert np.corrcoef(*light)[0, 1] > 0.95  # shade stays shade


def test_grey_parts_of_a_coloured_region_stay_grey(coffee):
    """Left half red, right half a metal grey: only the first turns blue."""
    pixels = np.full((20, 40, 3), 120, dtype=np.uint8)
    pixels[:, :30] = (160, 40, 40)
    edit = recolour(Image.fromarray(pixels), np.ones((20, 40), dtype=bool), "blue")
    after = np.asarray(edit.after)
    assert np.hypot(*rgb2lab(after[:, 35:])[..., 1:].reshape(-1, 2).T).max() < 3
    assert np.hypot(*rgb2lab(after[:, :25])[..., 1:].reshape(-1, 2).T).min() > 40
    grey = np.full((8, 8, 3), 120, dtype=np.uint8)
    assert recolour(Image.fromarray(grey), np.ones((8, 8), dtype=bool), "green").how["looks"] == "green"


def test_a_missing_scikit_image_is_told(coffee, saucer, monkeypatch):
    monkeypatch.setattr(photo_edits.importlib.util, "find_spec", lambda name: None)
    for edit in (lambda: recolour(coffee, saucer, "green"), lambda: remove(coffee, saucer)):
        with pytest.raises(ImportError, match=r"need scikit-image: python -m pip install"):
            edit()


def test_basic_colours_are_told_apart():
    for name, rgb in COLOURS.items():
        assert nearest_colour(rgb2lab(np.array([[rgb]], dtype=np.uint8))[0, 0]) == name


def test_colours_that_can_not_be_are_refused(coffee, saucer):
    for colour, message in (
        ("mauve", "expected one of red, green"),
        ((1, 2), r"expected \(red, green, blue\)"),
        ((0, 0, 300), "each 0 to 255"),
        ("black", "'keep' does not change; give lightness='match'"),
    ):
        with pytest.raises(ValueError, match=message):
            recolour(coffee, saucer, colour)
    with pytest.raises(ValueError, match="expected 'keep' or 'match'"):
        recolour(coffee, saucer, "red", lightness="up")
    with pytest.raises(ValueError, match="the mask has shape"):
        recolour(coffee, saucer[:100], "green")
    assert recolour(coffee, saucer, (20, 160, 60)).how["colour"] == "rgb(20, 160, 60)"


def test_a_ramp_is_continued_where_something_is_removed():
    """On a smooth ramp the fill is the ramp, at full resolution and at a lower one."""
    x = np.linspace(40, 200, 160)
    ramp = np.repeat((x[None, :] + np.linspace(0, 40, 120)[:, None])[..., None], 3, axis=2).round().astype(np.uint8)
    with_disc = ramp.copy()
    disc = ellipse((120, 160), (80, 60), (30, 25))
    with_disc[disc] = (255, 0, 0)
    for most, factor in ((30_000, 1), (300, 3)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(photo_edits, "MOST_UNKNOWN", most)
            edit = remove(Image.fromarray(with_disc), disc)
        assert edit.how["downscaled"] == factor and untouched(edit)
        error = np.abs(np.asarray(edit.after).astype(int) - ramp)[disc]
        assert error.max() <= (2 if factor == 1 else 8)
        assert not edit.cautions


def test_a_rocket_is_removed_from_the_sky():
    rocket = Image.fromarray(photographs.rocket())
    began = time.perf_counter()
    edit = remove(rocket, box_region(rocket, (300, 118, 45, 245)))
    assert time.perf_counter() - began < 10
    sky = np.asarray(rocket)[118:300, 240:290].astype(float)
    filled = np.asarray(edit.after)[130:280, 305:340].astype(float)
    assert np.abs(filled.mean((0, 1)) - sky.mean((0, 1))).max() < 25
    assert np.abs(np.asarray(rocket)[130:280, 315:330].astype(float).mean((0, 1)) - sky.mean((0, 1))).max() > 60
    assert untouched(edit) and edit.how["region"]["mask"] == "boxes"


def test_a_smear_is_foretold_and_values_stay_in_range():
    astronaut = Image.fromarray(photographs.astronaut())
    edit = remove(astronaut, box_region(astronaut, (22, 210, 340, 300)))
    assert edit.how["downscaled"] > 1 and "a smear is likely" in edit.cautions[0] and untouched(edit)
    with pytest.raises(ValueError, match="nothing is left to fill it from"):
        remove(astronaut, np.ones((512, 512), dtype=bool))


def test_a_texture_covers_the_region(coffee, saucer):
    brick = Image.fromarray(photographs.brick())
    edit = swap_texture(coffee, saucer, brick, "brick")
    assert untouched(edit) and edit.how["texture"] == "brick" and len(edit.how["texture_sha256"]) == 64
    dark, light = lab(edit, "before")[:, 0].mean(), lab(edit, "after")[:, 0].mean()
    assert abs(dark - light) < 5  # the region's own light
    small = swap_texture(coffee, saucer, brick.resize((37, 23)), "small brick")  # tiled
    assert untouched(small)


def test_an_edit_that_changes_nothing_says_so(coffee, saucer):
    same = edited(coffee, saucer, np.asarray(coffee)[saucer], {"edit": "none"})
    assert same.changed == 0 and same.cautions == ("only 0.0% of the region's pixels changed",)
    assert same.how["before_sha256"] == same.how["after_sha256"]


def test_a_yes_no_question_gives_two_pairs_of_opposite_answers(cup_pair):
    asked, substituted = cup_pair
    assert (asked.question, asked.answer_before, asked.answer_after) == ("Is the cup red?", "Yes", "No")
    assert (substituted.question, substituted.answer_before, substituted.answer_after) == (
        "Is the cup green?",
        "No",
        "Yes",
    )
    assert (asked.id, substituted.id, asked.level) == ("cup-asked", "cup-substituted", "attribute")
    assert asked.how["substitution"] == {"level": "attribute", "old": "red", "new": "green", "prompt": ""}
    json.dumps(dict(asked.how))
    assert asked.before is substituted.before


def test_answers_follow_from_words(coffee, saucer):
    def ask(question, answer, substitution=RED_TO_GREEN, **more):
        pairs = edit_photo(
            coffee, saucer, question, answer, substitution, lambda i, r, s: recolour(i, r, "green"), **more
        )
        return [(p.question, p.answer_before, p.answer_after) for p in pairs]

    assert ask("is the cup green?", "no") == [("is the cup green?", "no", "yes"), ("is the cup red?", "yes", "no")]
    assert ask("What colour is the cup?", "red") == [("What colour is the cup?", "red", "green")]
    assert ask("Is there a cup?", "Yes", None) == [("Is there a cup?", "Yes", "No")]
    assert ask("Is it autumn?", "Yes", answer_after="No") == [("Is it autumn?", "Yes", "No")]
    for question, answer, substitution in (
        ("Is the cup red?", "No", RED_TO_GREEN),
        ("Is the cup round?", "Yes", RED_TO_GREEN),
        ("What is this?", "a cup", RED_TO_GREEN),
        ("What is this?", "a cup", None),
    ):
        with pytest.raises(ValueError, match=r"does not follow from putting .*give answer_after="):
            ask(question, answer, substitution)


def test_editors(coffee, saucer):
    region = Region(saucer)
    assert recolour_to(coffee, region, RED_TO_GREEN).how["lightness"] == "keep"
    for new in ("black", "yellow"):
        assert recolour_to(coffee, region, Substitution("attribute", "red", new)).how["lightness"] == "match"
    with pytest.raises(ValueError, match="recolour_to was given 'dog'"):
        recolour_to(coffee, region, Substitution("object", "cat", "dog"))
    spoon = Region(ellipse((400, 600), (367, 275), (46, 54)))
    assert take_away(coffee, spoon, None).how["edit"] == "remove"
    with pytest.raises(ValueError, match="take_away draws nothing"):
        take_away(coffee, spoon, RED_TO_GREEN)


def test_pairs_fit_the_sheet_and_its_leak_filter(cup_pair):
    pairs = [p.on_sheet() for p in cup_pair]
    assert pairs[0].change == "recolour green" and pairs[0].name == "cup-asked"
    kept, dropped = without_leaks(pairs, tolerance=0)
    assert kept == tuple(pairs) and not dropped
    page = sheet(pairs)
    assert "Is the cup green?" in page
    spilt = np.array(cup_pair[0].after)
    spilt[:20] = 0
    leaky = PhotoPair(**{**cup_pair[0].__dict__, "after": Image.fromarray(spilt), "id": "leaky"})
    assert set(without_leaks([leaky.on_sheet()]).dropped) == {"leaky"}


def test_pairs_are_saved_and_loaded(tmp_path, cup_pair):
    save_pairs(cup_pair, tmp_path / "pairs")
    assert sorted(p.name for p in (tmp_path / "pairs").iterdir()) == [
        "00000_after.png",
        "00000_before.png",
        "00000_mask.png",
        "pairs.json",
    ]
    for saved, pair in zip(load_pairs(tmp_path / "pairs"), cup_pair, strict=True):
        assert saved.on_sheet().digest == pair.on_sheet().digest
        assert (saved.how, saved.id, saved.level) == (dict(pair.how), pair.id, pair.level)
    with pytest.raises(FileExistsError, match="give another folder"):
        save_pairs(cup_pair, tmp_path / "pairs")
    with pytest.raises(FileNotFoundError, match=r"no pairs\.json"):
        load_pairs(tmp_path)
    Image.fromarray(np.zeros((400, 600, 3), dtype=np.uint8)).save(tmp_path / "pairs" / "00000_after.png")
    with pytest.raises(ValueError, match="is not the image that was saved"):
        load_pairs(tmp_path / "pairs")


def test_a_list_of_pairs_or_a_mask_that_was_changed_is_refused(tmp_path, cup_pair):
    folder = tmp_path / "pairs"
    path = save_pairs(cup_pair, folder)
    text = path.read_text()
    path.write_text(text.replace('"answer_before": "Yes"', '"answer_before": "No"', 1))
    with pytest.raises(ValueError, match="is not as it was written"):
        load_pairs(folder)
    with pytest.raises(ValueError, match="is not as it was written"):
        save_pairs(cup_pair, folder, append=True)
    path.write_text(text)
    mask = np.array(Image.open(folder / "00000_mask.png").convert("1"))
    Image.fromarray(np.roll(mask, 1, axis=1)).save(folder / "00000_mask.png")
    with pytest.raises(ValueError, match=r"_mask\.png is not the image that was saved"):
        load_pairs(folder)
    path.write_text(json.dumps({"format_version": 1, "pairs": []}))
    with pytest.raises(ValueError, match="has format_version 1; this version of headscope reads 2"):
        load_pairs(folder)


def test_somebody_elses_folder_of_pairs_is_not_written_to(tmp_path, cup_pair):
    def save_there() -> str:
        with pytest.raises(FolderInUseError) as refused:
            save_pairs(cup_pair, tmp_path / "pairs")
        return str(refused.value)

    with holding(tmp_path / "pairs"), ThreadPoolExecutor(1) as other:
        assert "is working in" in other.submit(save_there).result()
    assert not (tmp_path / "pairs").exists()


def test_pairs_that_do_not_fit_are_refused(cup_pair):
    def with_(**changes):
        return PhotoPair(**{**cup_pair[0].__dict__, **changes})

    for changes, message in (
        ({"answer_after": "yes"}, "no edit of meaning"),
        ({"level": "colour"}, "expected one of object, attribute, relationship"),
        ({"region": cup_pair[0].region & False}, "mask is empty"),
        ({"after": cup_pair[0].after.resize((10, 10))}, "images of one size"),
    ):
        with pytest.raises(ValueError, match=message):
            with_(**changes)


@pytest.mark.parametrize(
    ("old", "new", "text", "expected"),
    [
        (
            "red",
            "green",
            "Is the red car scared of the red-haired man?",
            "Is the green car scared of the red-haired man?",
        ),
        ("dog", "elephant", "Is there a dog? A Dog, a DOG.", "Is there an elephant? An Elephant, an ELEPHANT."),
        ("elephant", "dog", "An elephant or an  elephant?", "A dog or a  dog?"),
        ("to the left of", "to the right of", "Is it to the  left of a cup?", "Is it to the right of a cup?"),
        ("riding", "feeding", "Riding? Who is riding?", "Feeding? Who is feeding?"),
        ("dog", "cat", "Is the dog's bowl empty?", "Is the cat's bowl empty?"),
    ],
)
def test_words_are_replaced_whole(old, new, text, expected):
    assert Substitution("object", old, new).apply(text) == expected


def test_substitutions_are_checked():
    assert RED_TO_GREEN.reverse == Substitution("attribute", "green", "red")
    with pytest.raises(ValueError, match="'red' is not a word of 'Scared\\?'"):
        RED_TO_GREEN.apply("Scared?")
    for arguments, message in (
        (("colour", "a", "b"), "expected one of object"),
        (("object", "a", "A"), "changes nothing"),
        (("object", " ", "b"), "changes nothing"),
    ):
        with pytest.raises(ValueError, match=message):
            Substitution(*arguments)


def test_the_table_covers_every_level_and_goes_one_word_for_another():
    assert tuple(TABLE) == LEVELS
    for level, groups in TABLE.items():
        for group in groups:
            assert len(set(group)) == len(group) > 1
            for word in group:
                found = substitution_for(f"Is something {word} here?", level)
                assert found.old == word or len(found.old) > len(word)
                assert found.apply(f"Is something {word} here?") != f"Is something {word} here?"
    for question, level, old in (
        ("Is the man to the left of the bus?", "relationship", "to the left of"),
        ("Is the wooden chair red?", "attribute", "wooden"),
        ("Are there dogs near the men?", "object", "dogs"),
        ("Is the horse in front of the roof?", "relationship", "in front of"),
    ):
        assert substitution_for(question, level).old == old
    question = "Is the red car next to the blue bus?"
    given = {substitution_for(question, "attribute", seed=seed).new for seed in range(60)}
    assert len(given) > 5 and not given & {"red", "blue"}
    assert substitution_for(question, "attribute", seed=3) == substitution_for(question, "attribute", seed=3)
    with pytest.raises(ValueError, match="is in the table for level 'relationship'"):
        substitution_for("What is this?", "relationship")
    with pytest.raises(ValueError, match="level='color'"):
        substitution_for("What is this?", "color")


def test_an_llm_may_give_substitutions_and_is_checked():
    question = "Is the kettle steaming?"
    given = substitution_for(question, "object", lambda q, level: ("kettle", "teapot"))
    assert given.apply(question) == "Is the teapot steaming?"
    drawn = Substitution("object", "kettle", "teapot", prompt="a steaming teapot")
    assert substitution_for(question, "object", lambda q, level: drawn) is drawn
    for bad in (("pan", "teapot"), ("kettle", "steaming")):
        with pytest.raises(ValueError, match="expected a word of the question"):
            substitution_for(question, "object", lambda q, level, bad=bad: bad)
    for bad in ("teapot", None, Substitution("attribute", "kettle", "teapot")):
        with pytest.raises(ValueError, match=r"expected \(old, new\)"):
            substitution_for(question, "object", lambda q, level, bad=bad: bad)

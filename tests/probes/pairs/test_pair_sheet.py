"""Pair sheets: leaks by hand, texts escaped, and decisions that hold for the pictures they were taken on."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from probes.pairs.sheet import (
    Decision,
    PicturePair,
    accepted,
    leaks,
    load_decisions,
    picture_pair,
    sheet,
    sheet_image,
    without_leaks,
    write_sheet,
)
from probes.scenes.edits import edited_pairs

NASTY = '<script>alert("x")</script> & \'{{ 7 * 7 }}\' --> "]]>'


def grey(*changes: tuple[int, int, int], size: tuple[int, int] = (6, 4)) -> Image.Image:
    """A grey picture, 6 wide and 4 high; a change is (row, column, value)."""
    pixels = np.full((size[1], size[0], 3), 100, dtype=np.uint8)
    for row, column, value in changes:
        pixels[row, column, 1] = value
    return Image.fromarray(pixels)


def mask(*pixels: tuple[int, int], shape: tuple[int, int] = (4, 6)) -> np.ndarray:
    made = np.zeros(shape, dtype=bool)
    for pixel in pixels:
        made[pixel] = True
    return made


def pair(name: str = "one", **more) -> PicturePair:
    values = {"before": grey(), "after": grey((0, 0, 200)), "mask": mask((0, 0)), "question": "Is it grey?"}
    return PicturePair(name, **{**values, "answer_before": "yes", "answer_after": "no", **more})


@pytest.fixture(scope="module")
def scenes() -> list[PicturePair]:
    edited = edited_pairs("test", 6, seed=1, difficulty="hard", pixels=48)
    return [picture_pair(e, f"{i:04d}") for i, e in enumerate(edited)]


def decisions_file(tmp_path, rows, **more):
    path = tmp_path / "decisions.json"
    path.write_text(json.dumps({"format_version": 1, "sheet": "x", "decisions": rows, **more}))
    return path


def test_leaks_by_hand():
    after = grey((0, 0, 200), (1, 1, 50), (2, 2, 109), (3, 3, 105))
    assert leaks(grey(), after, mask((0, 0))) == pytest.approx(2 / 3)
    assert leaks(grey(), after, mask((0, 0), (1, 1))) == pytest.approx(1 / 3)
    assert leaks(grey(), after, mask((0, 0), (1, 1), (2, 2))) == 0
    assert leaks(grey(), after, mask((0, 0)), tolerance=0) == pytest.approx(3 / 4)
    assert leaks(np.asarray(grey()), np.asarray(after), mask((3, 5))) == 1
    assert leaks(grey(), grey(), mask((0, 0))) == 0
    assert leaks(grey(), grey((0, 0, 91)), mask((1, 0))) == leaks(grey((0, 0, 91)), grey(), mask((1, 0))) == 1


def test_leaks_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match=r"shapes \(4, 6, 3\) and \(4, 7, 3\); expected one"):
        leaks(grey(), grey(size=(7, 4)), mask((0, 0)))
    with pytest.raises(ValueError, match=r"the mask is bool \(6, 4\); expected bool \(4, 6\) \(height, width\)"):
        leaks(grey(), grey(), mask((0, 0), shape=(6, 4)))
    with pytest.raises(ValueError, match="the mask is uint8"):
        leaks(grey(), grey(), mask((0, 0)).astype(np.uint8))
    with pytest.raises(ValueError, match="the mask is empty"):
        leaks(grey(), grey(), mask())


def test_a_pair_is_checked_when_it_is_made():
    with pytest.raises(ValueError, match=r"one: before is \(6, 4\) and after \(7, 4\); give one size"):
        pair(after=grey(size=(7, 4)))
    with pytest.raises(ValueError, match="one: the mask is empty"):
        pair(mask=mask())
    with pytest.raises(ValueError, match=r"one: the mask is bool \(2, 2\)"):
        pair(mask=mask((0, 0), shape=(2, 2)))


def test_pairs_that_leak_are_dropped_with_a_reason():
    leaky = pair("leaky", after=grey((0, 0, 200), (3, 5, 200)))
    idle = pair("idle", after=grey((0, 0, 104)))
    sifted = without_leaks([pair("clean"), leaky, idle])
    assert [p.name for p in sifted.kept] == ["clean"]
    assert sifted.dropped["leaky"] == "50.0% of the changed pixels are outside the mask (at most 0.0% allowed)"
    assert sifted.dropped["idle"] == "no pixel changed by more than 8 of 255"
    assert [p.name for p in without_leaks([leaky], at_most=0.5).kept] == ["leaky"]
    assert [p.name for p in without_leaks([idle], tolerance=3).kept] == ["idle"]
    with pytest.raises(ValueError, match="at_most=2; expected a share"):
        without_leaks([leaky], at_most=2)


def test_edited_scenes_do_not_leak(scenes):
    assert without_leaks(scenes, tolerance=0) == (tuple(scenes), {})
    for p in scenes:
        assert (p.question, p.answer_before) == (p.edited.question.text, p.edited.answer_before)
        was = p.edited.before.objects[p.edited.changed]
        assert p.change.startswith(f"{was.size} {was.material} {was.colour} {was.shape}")
        if p.edited.fact == "shape":
            assert p.change.endswith(f"shape now {p.edited.after.objects[p.edited.changed].shape}")


def test_the_sheet_holds_all_pictures_and_answers(scenes):
    page = sheet(scenes, "Looked at")
    found = re.findall(r'<img src="data:image/png;base64,([^"]+)"', page)
    pictures = [Image.open(io.BytesIO(base64.b64decode(text))) for text in found]
    assert len(pictures) == 3 * len(scenes)
    for number, p in enumerate(scenes):
        before, after, drawn = pictures[3 * number : 3 * number + 3]
        assert before.tobytes() == p.before.tobytes() and after.tobytes() == p.after.tobytes()
        assert ((np.asarray(drawn) > 0) == p.mask).all()
        assert f'data-name="{p.name}" data-digest="{p.digest}" data-level="{p.level}"' in page
        assert p.question in page and f"before: <b>{p.answer_before}</b>; after: <b>{p.answer_after}</b>" in page
    assert page.count('value="accept"') == page.count('value="reject"') == len(scenes)


def test_the_sheet_needs_no_network_and_escapes_every_text():
    nasty = pair(NASTY, question=NASTY, answer_before=NASTY, answer_after=NASTY, level=NASTY, change=NASTY)
    page = sheet([nasty, pair("other", level="object")], NASTY)
    assert "<script>alert" not in page and "{{ 7" in page and "&lt;script&gt;" in page
    assert page.count("<script") == page.count("</script") == 2
    assert not re.search(r"""\s(src|href)=["']?(?!data:|#)\w""", page) and "@import" not in page
    assert "default-src 'none'" in page and not re.search(r"https?://", page)
    leaky = sheet([pair(after=grey((0, 0, 200), (3, 5, 200)))])
    assert "50.0% of the changed pixels are outside it" in leaky and "are outside it" not in page


def test_what_a_sheet_saves_is_read_and_applied(scenes, tmp_path):
    rows = [{"name": p.name, "digest": p.digest, "accepted": i % 2 == 0} for i, p in enumerate(scenes[:4])]
    decisions = load_decisions(decisions_file(tmp_path, rows))
    assert decisions["0000"] == Decision(True, scenes[0].digest) and len(decisions) == 4
    assert [p.name for p in accepted(scenes, decisions)] == ["0000", "0002"]  # undecided ones are left out
    assert accepted(scenes, {}) == []


def test_decisions_on_other_pictures_are_refused(scenes, tmp_path):
    good = {"0000": Decision(True, scenes[0].digest)}
    with pytest.raises(ValueError, match="1 of 1 decisions are on other pictures"):
        accepted(scenes[1:], good)
    for other in (
        {"mask": ~scenes[0].mask},
        {"question": "?"},
        {"answer_after": "?"},
        {"after": scenes[0].before},
    ):
        with pytest.raises(ValueError, match="the file is of another sheet, or the pairs were made again"):
            accepted([replace(scenes[0], **other)], good)


def test_files_that_hold_no_decisions(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'no such file. Press "Save decisions"'):
        load_decisions(tmp_path / "none.json")
    row = {"name": "a", "digest": "b", "accepted": True}
    for path in (
        decisions_file(tmp_path, [row], format_version=2),
        decisions_file(tmp_path, [{"name": "a"}]),
        decisions_file(tmp_path, 3),
    ):
        with pytest.raises(ValueError, match="holds no decisions of a sheet"):
            load_decisions(path)
    for rows in ([row, row], [{**row, "accepted": "yes"}]):
        with pytest.raises(ValueError, match="every pair needs one decision"):
            load_decisions(decisions_file(tmp_path, rows))
    (tmp_path / "cut.json").write_text('{"format_version": 1, "deci')
    with pytest.raises(ValueError, match="holds no decisions"):
        load_decisions(tmp_path / "cut.json")


def test_names_are_needed_once():
    for ask_for in (sheet, sheet_image, without_leaks):
        with pytest.raises(ValueError, match=r"1 names are given twice \(one\)"):
            ask_for([pair(), pair()])
        with pytest.raises(ValueError, match="no pairs were given"):
            ask_for([])


def test_the_sheet_as_a_picture(scenes):
    image = sheet_image(scenes, height=96, columns=2)
    assert image.mode == "RGB" and image.width == 2 * (3 * 96 + 24) and image.height == 3 * (96 + 46)
    first = np.asarray(image)[36 + 4 : 36 + 4 + 96, 6 : 6 + 96]
    assert (first[::2, ::2] == np.asarray(scenes[0].before)).mean() > 0.9
    long = sheet_image([pair(question="Is this question much too long to be read? " * 9)], height=40, columns=1)
    assert long.width == 3 * 60 + 24


def test_a_sheet_is_written_whole(scenes, tmp_path):
    path = write_sheet(scenes, tmp_path / "sheet.html")
    assert path.read_text() == sheet(scenes) and [p.name for p in tmp_path.iterdir()] == ["sheet.html"]
    assert sheet(scenes) == sheet(scenes)

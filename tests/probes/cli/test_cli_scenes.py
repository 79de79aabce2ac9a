"""`interp scenes`: made, read back, looked at; every bad folder as one message."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from probes.cli import app as cli
from probes.pairs.files import load_picture_pairs
from probes.pairs.scene_files import load_scenes, save_scenes
from probes.scenes.edits import edited_pairs

MAKE = ("make", "--n", "6", "--difficulty", "hard", "--split", "test", "--pixels", "48", "--out")


def run(*words: object):
    return CliRunner().invoke(cli.made(), ["scenes", *map(str, words)])


def failure(*words: object) -> str:
    result = run(*words)
    assert result.exit_code != 0
    return str(result.exception) if not isinstance(result.exception, SystemExit) else result.output


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "scenes"
    result = run(*MAKE, folder)
    assert result.exit_code == 0, result.output
    assert "6 pairs in" in result.output and "interp scenes sheet" in result.output
    return folder


@pytest.fixture
def copy(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "copy"))


def test_what_is_made_is_what_was_asked_for(made):
    pairs = load_scenes(made)
    twins = list(edited_pairs("test", 6, seed=0, difficulty="hard", pixels=48))
    assert [p.name for p in pairs] == [f"{i:04d}" for i in range(6)]
    for pair, twin in zip(pairs, twins, strict=True):
        assert (pair.edited.before, pair.edited.after) == (twin.before, twin.after)
        assert pair.edited.question == twin.question and (pair.edited.region == twin.region).all()
        assert (pair.mask == twin.region).all() and pair.before.size == (48, 48)
    rows = [json.loads(line) for line in (made / "scenes.jsonl").read_text().splitlines()]
    assert {"name", "question", "answer_before", "answer_after", "level", "before", "after", "fact"} <= set(rows[0])
    assert len(list((made / "pictures").iterdir())) == 18
    assert [p.name for p in made.parent.iterdir()] == ["scenes"]  # nothing temporary is left


def test_level_and_kind(tmp_path):
    assert run("make", "--n", 3, "--level", "attribute", "--kind", "yes-no", "--out", tmp_path / "a").exit_code == 0
    pairs = load_scenes(tmp_path / "a")
    assert {(p.level, p.edited.question.kind, p.before.width) for p in pairs} == {("attribute", "yes_no", 96)}


def test_the_sheet_of_a_folder(copy):
    result = run("sheet", copy, "--png")
    assert result.exit_code == 0 and "6 pairs on" in result.output and "outside the mask" not in result.output
    page = (copy / "sheet.html").read_text()
    assert all(p.question in page for p in load_scenes(copy))
    assert Image.open(copy / "sheet.png").width > 3 * 48
    assert "sheet.html is there already" in failure("sheet", copy)
    assert run("sheet", copy, "--overwrite").exit_code == 0
    assert run("sheet", copy, "--out", copy.parent / "new" / "page.html").exit_code == 0


def test_a_sheet_of_the_accepted_pairs_that_do_not_leak(copy):
    pairs = load_scenes(copy)
    rows = [{"name": p.name, "digest": p.digest, "accepted": i != 1} for i, p in enumerate(pairs[:4])]
    file = copy.parent / "decisions.json"
    file.write_text(json.dumps({"format_version": 1, "sheet": "x", "decisions": rows}))
    spilt = np.array(pairs[2].before)
    spilt[~pairs[2].mask] ^= 128
    Image.fromarray(spilt).save(copy / "pictures" / "0002-after.png")
    assert "decisions are on other pictures (0002 ...)" in failure("sheet", copy, "--decisions", file)
    result = run("sheet", copy)
    assert "1 of 6 pairs are dropped: 0002: 100.0% of the changed pixels" in result.output
    assert "5 pairs on" in result.output and pairs[2].question not in (copy / "sheet.html").read_text()
    assert "6 pairs on" in run("sheet", copy, "--overwrite", "--max-leak", 1).output
    rows[2]["digest"] = load_scenes(copy)[2].digest
    file.write_text(json.dumps({"format_version": 1, "sheet": "x", "decisions": rows}))
    result = run("sheet", copy, "--overwrite", "--decisions", file)
    assert "3 of 6 pairs were accepted in decisions.json (1 rejected, 2 undecided)." in result.output
    assert "1 of 3 pairs are dropped: 0002" in result.output and "2 pairs on" in result.output


def test_a_photograph_is_edited_and_shown(tmp_path):
    """Two edits of one photograph in one folder: a box that becomes green, and one that is emptied."""
    pytest.importorskip("skimage", reason="needs the extra 'images' (scikit-image)")
    pixels = np.full((40, 60, 3), 200, dtype=np.uint8)
    pixels[10:20, 10:30] = (200, 30, 35)
    Image.fromarray(pixels).save(tmp_path / "cup.png")
    folder = tmp_path / "photos"
    words = ("edit-photo", tmp_path / "cup.png", "--box", "10,10,20,10", "--out", folder)
    result = run(*words, "--recolour", "red:green", "--question", "Is the cup red?", "--answer", "Yes")
    assert result.exit_code == 0, result.output
    assert "Is the cup red? Yes -> No" in result.output and "Is the cup green? No -> Yes" in result.output
    gone = (*words, "--remove", "--question", "Is there a cup?", "--answer", "Yes")
    assert run(*gone, "--concept", "cup", "--name", "gone").exit_code == 0
    *coloured, emptied = load_picture_pairs(folder)
    assert [p.concept for p in (*coloured, emptied)] == ["red", "green", "cup"]
    assert [p.level for p in (*coloured, emptied)] == ["attribute", "attribute", "object"]
    for pair in (*coloured, emptied):
        assert (np.asarray(pair.before) == pixels).all()
        assert ((np.asarray(pair.after) != pixels).any(axis=-1) == pair.mask).all() and pair.mask.sum() == 200
    assert (np.asarray(emptied.after) == 200).all()
    assert "3 pairs on" in run("sheet", folder).output
    assert "has a pair 'gone' already" in failure(*gone, "--name", "gone")
    for extra, message in (
        (["--mask", tmp_path / "cup.png"], "give one of --box X,Y,W,H and --mask FILE"),
        (["--recolour", "red:green"], "give one of --recolour OLD:NEW and --remove"),
        (["--box", "1,2,3"], "expected X,Y,W,H in pixels"),
        (["--concept", "dog"], "concept='dog' is no word of"),
    ):
        assert message in " ".join(failure(*gone, *extra).replace("│", " ").split())
    assert len(load_picture_pairs(folder)) == 3


def test_a_folder_is_replaced_only_when_asked_to(copy):
    before = (copy / "scenes.jsonl").read_text()
    assert "holds scenes already. Replace them with overwrite=True" in failure(*MAKE, copy)
    assert (copy / "scenes.jsonl").read_text() == before
    assert run(*MAKE, copy, "--overwrite", "--seed", 7).exit_code == 0
    assert (copy / "scenes.jsonl").read_text() != before and len(load_scenes(copy)) == 6
    (copy / "decisions.json").write_text("{}")
    assert "other things than scenes (decisions.json), which would be lost" in failure(*MAKE, copy, "--overwrite")
    assert (copy / "decisions.json").exists()
    assert "is a file; expected a folder" in failure(*MAKE, copy / "decisions.json")


def test_a_crash_leaves_the_old_folder(copy):
    def half():
        yield next(edited_pairs("test", 1, pixels=48))
        raise KeyboardInterrupt

    before = (copy / "scenes.jsonl").read_text()
    with pytest.raises(KeyboardInterrupt):
        save_scenes(half(), copy, overwrite=True)
    assert (copy / "scenes.jsonl").read_text() == before and len(load_scenes(copy)) == 6
    assert [p.name for p in copy.parent.iterdir()] == ["copy"]
    with pytest.raises(ValueError, match="no pairs were given"):
        save_scenes([], copy.parent / "none")
    assert not (copy.parent / "none").exists()


def test_missing_pictures_are_listed(copy):
    for name in ("0001-after.png", "0004-mask.png"):
        (copy / "pictures" / name).unlink()
    message = failure("sheet", copy)
    assert "2 of 18 pictures are missing" in message and "0001-after.png, 0004-mask.png" in message


def test_masks_of_another_size_or_empty_are_refused(copy):
    path = copy / "pictures" / "0002-mask.png"
    Image.fromarray(np.full((20, 48), 255, dtype=np.uint8)).save(path)
    with pytest.raises(ValueError, match=r"0002: the mask is bool \(20, 48\); expected bool \(48, 48\)"):
        load_scenes(copy)
    Image.fromarray(np.zeros((48, 48), dtype=np.uint8)).save(path)
    with pytest.raises(ValueError, match="0002: the mask is empty"):
        load_scenes(copy)


def test_pictures_that_are_not_the_records_are_refused(copy):
    path = copy / "pictures" / "0002-after.png"
    Image.new("RGB", (30, 48)).save(path)
    with pytest.raises(ValueError, match=r"0002: before is \(48, 48\) and after \(30, 48\)"):
        load_scenes(copy)
    path.write_bytes((copy / "pictures" / "0002-before.png").read_bytes()[:300])
    with pytest.raises(ValueError, match="damaged or ends too early"):
        load_scenes(copy)
    Image.new("RGB", (30, 30)).save(copy / "pictures" / "0000-before.png")
    with pytest.raises(ValueError, match=r"0000-before.png is \(30, 30\); scenes.jsonl says \(48, 48\)"):
        load_scenes(copy)


def test_damaged_records_are_named_by_line(copy):
    path = copy / "scenes.jsonl"
    lines = path.read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    for change, text in (
        ({"answer_after": "perhaps"}, "answers .* the scene graphs give"),
        ({"format_version": 9}, "format_version 9; expected 1"),
        ({"name": "../../x"}, "expected the beginning of a file's name"),
        ({"before": {}}, "not a scene"),
        ({"program": {}}, "not a question"),
    ):
        path.write_text("\n".join([lines[0], json.dumps(rows[1] | change)]))
        with pytest.raises(ValueError, match=f"scenes.jsonl, line 2: damaged or edited .*{text}"):
            load_scenes(copy)
    path.write_text(lines[0] + "\n" + lines[1][:40])
    assert "line 2: damaged or edited" in failure("sheet", copy)


def test_what_was_changed_since_is_refused(copy):
    path = copy / "scenes.jsonl"
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    assert json.loads(lines[-1])["n"] == 6
    for changed in (
        whole.replace(b'"level": "object"', b'"level": "attribute"', 1),
        b"".join(lines[1:]),
        b"".join([lines[1], lines[0], *lines[2:]]),
    ):
        path.write_bytes(changed)
        with pytest.raises(ValueError, match=r"scenes\.jsonl was changed, .*the SHA-256 of its last line differs"):
            load_scenes(copy)
    path.write_bytes(b"".join(lines[:-1]))  # also that of an older version
    with pytest.raises(ValueError, match="its last line has no SHA-256 of the others"):
        load_scenes(copy)


def test_what_is_no_folder_of_scenes(tmp_path):
    assert "has no scenes.jsonl and no pairs.json: it holds no scenes" in failure("sheet", tmp_path)
    assert "difficulty='tough'; expected easy, medium, hard" in failure(
        "make", "--difficulty", "tough", "--out", tmp_path
    )
    assert "Invalid value" in failure("make", "--level", "colour", "--out", tmp_path / "x")
    assert not (tmp_path / "x").exists()

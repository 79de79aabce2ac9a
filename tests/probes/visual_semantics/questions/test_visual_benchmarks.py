"""Benchmarks' files, in the shapes that are published, with sentences of our own; rows as a stream."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from probes.pairs.masks import Box, box_region
from probes.pairs.photo_pairs import edit_photo, recolour_to
from probes.pairs.substitutions import substitution_for
from probes.rows import json_rows
from probes.rows.rows import stream_rows
from probes.visual_semantics.questions import benchmarks as visual_benchmarks
from probes.visual_semantics.questions.benchmarks import (
    VisualQuestion,
    hash_visual_questions,
    load_visual_questions,
    unpack_naturalbench,
)
from probes.visual_semantics.questions.formats import FORMATS, coco_names


def picture(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (50, 40)).save(folder / name)


def write(path, value, lines=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join(json.dumps(v) for v in value) if lines else json.dumps(value)
    path.write_text(text, encoding="utf-8")
    return path


def gqa_row(image="7", question="Is the mug blue?", answer="yes", semantic="attr", **more):
    types = {"structural": "verify", "semantic": semantic, "detailed": "x"}
    named = {"question": {"2": "11"}, "answer": {}, "fullAnswer": {"1": "11", "4": "12"}}
    return {"imageId": image, "question": question, "answer": answer, "types": types, "annotations": named} | more


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    picture(folder, "7.jpg", "n8.png", "val2014/COCO_val2014_000000000042.jpg", "000000000043.jpg")
    return folder


def test_gqa(tmp_path, images):
    rows = {
        "01": gqa_row(),
        "02": gqa_row("n8", "What is on the table?", "plate", "rel"),
        "03": gqa_row("7", "Is it day?", "no", "global"),
        "04": gqa_row("7", "Is there a mug?", "yes", "obj"),
    }
    questions = load_visual_questions(f"gqa:{write(tmp_path / 'q.json', rows)}", images)
    assert [q.id for q in questions] == list(rows) and len(questions) == 4
    first = questions[0]
    assert (first.question, first.answer, first.options) == ("Is the mug blue?", "Yes", ("Yes", "No"))
    assert (first.image, first.source, first.extra["types"]["structural"]) == (images / "7.jpg", "gqa", "verify")
    assert [q.level for q in questions] == ["attribute", "relationship", None, "object"]
    assert questions[1].image.name == "n8.png" and questions[1].options == () and not questions[1].is_yes_no
    assert questions.yes_share == 2 / 3 and questions.one_sided is None and first.group == "7.jpg"


def test_scene_graphs_give_boxes_and_names(tmp_path, images):
    graphs = {
        "7": {
            "width": 50,
            "height": 40,
            "objects": {
                "11": {"name": "mug", "x": 1, "y": 2, "w": 3, "h": 4, "attributes": ["blue"], "relations": []},
                "12": {"name": "table", "x": 0, "y": 9, "w": 50, "h": 9, "attributes": [], "relations": []},
                "13": {"name": "lamp", "x": 5, "y": 5, "w": 5, "h": 5, "attributes": [], "relations": []},
            },
        },
        "other": {"objects": {}},
    }
    path = f"gqa:{write(tmp_path / 'q.json', {'1': gqa_row(), '2': gqa_row('n8')})}"
    first, second = load_visual_questions(path, images, scene_graphs=write(tmp_path / "g.json", graphs))
    assert first.boxes == (Box(1, 2, 3, 4), Box(0, 9, 50, 9)) and second.boxes == ()
    assert first.extra["objects"] == [{"name": "mug", "attributes": ["blue"]}, {"name": "table", "attributes": []}]
    assert box_region(first.image, first.boxes).pixels.sum() == 12 + 450
    del graphs["7"]["objects"]["11"]["w"]
    with pytest.raises(ValueError, match="an object of image 7 has no x, y, w, h"):
        load_visual_questions(path, images, scene_graphs=write(tmp_path / "g.json", graphs))
    with pytest.raises(ValueError, match="has the scene graph of none of the 2 images"):
        load_visual_questions(path, images, scene_graphs=write(tmp_path / "g.json", {"9": {"objects": {}}}))


def test_v_seams_lists_and_its_object(tmp_path, images):
    place = {"object_positions": [{"x": 3, "y": 4, "w": 5, "h": 6}], "relevant_objects": ["mug"]}
    animal = [gqa_row(answer="Yes", semantic="rel", question_id=f"0{i}", **place) for i in range(12)]
    source = write(tmp_path / "GQA/Object_Level/Animal/Animal.json", animal)
    questions = load_visual_questions(f"gqa:{source}", images)
    assert {q.level for q in questions} == {"object"}  # its folder's, not GQA's
    assert questions[0].boxes == (Box(3, 4, 5, 6),) and questions[0].extra["concept"] == "Animal"
    assert questions[0].id == "00" and questions.repeats == 11
    assert questions.yes_share == 1 and "12 of 12 answers are 'Yes'" in questions.one_sided
    assert questions.describe()["one_sided"] == questions.one_sided
    colour = {f"1{i}": gqa_row(answer=("Yes", "No")[i % 2], **place) for i in range(4)}
    source = write(tmp_path / "GQA/Attribute_Level/Color/Color.json", colour)
    questions = load_visual_questions(f"gqa:{source}", images)
    assert [q.id for q in questions] == ["10", "11", "12", "13"] and {q.level for q in questions} == {"attribute"}
    assert questions.yes_share == 0.5 and questions.one_sided is None
    unnamed = [{k: v for k, v in row.items() if k != "question_id"} for row in animal[:2]]
    assert load_visual_questions(f"gqa:{write(tmp_path / 'A.json', unnamed)}", images)[1].id == "A-2"


def test_from_a_question_to_its_edited_pairs(tmp_path):
    """V-SEAM's road: the annotated box, the word's substitution, the edit, two questions of opposite answers."""
    picture(tmp_path / "images", "7.png")
    Image.new("RGB", (50, 40), (40, 80, 200)).save(tmp_path / "images" / "7.png")
    rows = {"1": gqa_row(object_positions=[{"x": 3, "y": 4, "w": 45, "h": 30}])}
    (question,) = load_visual_questions(f"gqa:{write(tmp_path / 'q.json', rows)}", tmp_path / "images")
    substitution = substitution_for(question.question, question.level, lambda text, level: ("blue", "pink"))
    region = box_region(question.image, question.boxes)
    pairs = edit_photo(
        question.image, region, question.question, question.answer, substitution, recolour_to, id=question.id
    )
    assert [(p.id, p.question, p.answer_before, p.answer_after) for p in pairs] == [
        ("1-asked", "Is the mug blue?", "Yes", "No"),
        ("1-substituted", "Is the mug pink?", "No", "Yes"),
    ]
    assert pairs[0].how["looks"] == "pink" and pairs[0].region.sum() == 45 * 30


def test_one_sided_is_more_than_nine_in_ten(tmp_path, images):
    for n_no, flagged in ((2, False), (1, True)):
        rows = {str(i): gqa_row(answer="no" if i < n_no else "yes") for i in range(20)}
        questions = load_visual_questions(f"gqa:{write(tmp_path / 'q.json', rows)}", images)
        assert (questions.one_sided is not None) is flagged


def test_pope(tmp_path, images):
    rows = [
        {"question_id": i, "image": "COCO_val2014_000000000042.jpg", "text": f"Is there a mug {i}?", "label": label}
        for i, label in enumerate(("yes", "no"), 1)
    ]
    source = write(tmp_path / "coco_pope_random.json", rows, lines=True)
    questions = load_visual_questions(f"pope:{source}", images)
    assert [q.answer for q in questions] == ["Yes", "No"] and questions[0].id == "coco_pope_random-1"
    assert (questions[0].level, questions[0].extra) == ("object", {"split": "random"})
    assert questions[0].image.parent.name == "val2014"
    as_array = load_visual_questions(f"pope:{write(tmp_path / 'pope.json', rows)}", images)
    assert [q.question for q in as_array] == [q.question for q in questions]
    bad = write(tmp_path / "p.json", [rows[0], rows[1] | {"label": "maybe"}], lines=True)
    with pytest.raises(ValueError, match=r"p\.json, row 2 \(format 'pope'\): the label is 'maybe'"):
        load_visual_questions(f"pope:{bad}", images)
    unlabelled = write(tmp_path / "p.json", [{"question_id": 1, "image": "a.jpg", "text": "Is it?"}], lines=True)
    with pytest.raises(ValueError, match="there is no label; the row has question_id, image, text"):
        load_visual_questions(f"pope:{unlabelled}", images)


def test_cocoqa_as_four_files_and_as_a_table(tmp_path, images):
    columns = {
        "questions.txt": [
            "what is on the shelf ?",
            "how many mugs are there ?",
            "what colour is it ?",
            "where is it ?",
        ],
        "answers.txt": ["mug", "two", "blue", "kitchen"],
        "img_ids.txt": ["42", "43", "42", "42"],
        "types.txt": ["0", "1", "2", "3"],
    }
    folder = tmp_path / "test"
    folder.mkdir()
    for name, lines in columns.items():
        (folder / name).write_text("\n".join(lines) + "\n")
    questions = load_visual_questions(f"cocoqa:{folder}", images)
    assert [q.level for q in questions] == ["object", None, "attribute", "relationship"]
    assert [q.extra["type"] for q in questions] == ["object", "number", "color", "location"]
    assert [q.answer for q in questions] == columns["answers.txt"] and questions.yes_share is None
    assert [q.image.name for q in questions][:2] == ["COCO_val2014_000000000042.jpg", "000000000043.jpg"]
    table = tmp_path / "color.csv"
    with table.open("w", newline="") as file:
        rows = zip(columns["questions.txt"], columns["answers.txt"], columns["img_ids.txt"], strict=True)
        csv.writer(file).writerows([("Question", "Answer", "image_id"), *rows])
    of_table = load_visual_questions(f"cocoqa:{table}", images)
    assert [q.question for q in of_table] == columns["questions.txt"] and of_table[0].id == "color-1"
    assert {q.level for q in of_table} == {"attribute"} and of_table[0].extra == {"type": "color"}
    table.write_text("text,answer\na,b\n")
    with pytest.raises(ValueError, match="there is no question and no image; the columns are text, answer"):
        load_visual_questions(f"cocoqa:{table}", images)
    table.write_text("question,answer,image\na,b\n")
    with pytest.raises(ValueError, match=r"row 1 \(line 2\) .*it has another number of cells than the header's 3"):
        load_visual_questions(f"cocoqa:{table}", images)
    (folder / "answers.txt").write_text("mug\n")
    with pytest.raises(ValueError, match=r"different numbers of lines \(questions.txt 4, answers.txt 1"):
        load_visual_questions(f"cocoqa:{folder}", images)
    (folder / "types.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no types\.txt"):
        load_visual_questions(f"cocoqa:{folder}", images)


def vqa_files(folder, answers=None, order=1):
    asked = [{"image_id": i, "question": f"Is it {i}?", "question_id": i * 1000} for i in (42, 43)]
    people = [{"answer": a, "answer_confidence": "yes", "answer_id": 1} for a in answers or ["yes"] * 7 + ["no"] * 3]
    given = [
        {"question_id": q["question_id"], "image_id": 1, "answers": people, "answer_type": "yes/no"} for q in asked
    ]
    info = {"info": {"year": 2017}, "data_subtype": "val2014"}
    write(folder / "v2_mscoco_val2014_annotations.json", info | {"annotations": given[::order]})
    return write(folder / "v2_OpenEnded_mscoco_val2014_questions.json", info | {"questions": asked})


@pytest.mark.parametrize("order", [1, -1])
def test_vqav2_takes_the_majority(tmp_path, images, order):
    questions = load_visual_questions(f"vqav2:{vqa_files(tmp_path, order=order)}", images)
    assert [q.id for q in questions] == ["42000", "43000"] and questions[0].answer == "Yes"
    assert questions[0].extra["agreement"] == 0.7 and questions[0].extra["answer_type"] == "yes/no"
    assert len(questions[0].extra["answers"]) == 10


def test_vqav2_without_answers(tmp_path, images):
    source = vqa_files(tmp_path, answers=["two", "2", "two"])
    assert load_visual_questions(f"vqav2:{source}", images)[0].answer == "two"
    short = write(tmp_path / "a.json", {"annotations": [{"question_id": 1, "answers": []}]})
    with pytest.raises(ValueError, match=r"question_id 42000 has no answer in a\.json"):
        load_visual_questions(f"vqav2:{source}", images, annotations=short)
    (tmp_path / "v2_mscoco_val2014_annotations.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no v2_mscoco_val2014_annotations\.json .*Name it with annotations="):
        load_visual_questions(f"vqav2:{source}", images)
    with pytest.raises(ValueError, match=r"has no 'questions'; it has other"):
        load_visual_questions(f"vqav2:{write(tmp_path / 'x.json', {'other': 1})}", images, annotations=short)


def naturalbench_row(index=5, **more):
    row = {"Index": index, "Question_Type": "yes_no", "Source": "Flickr"}
    row |= {"Question_0": "Is the mug full?", "Question_1": "Which is it? Option: A: tea; Option: B: milk;"}
    row |= {"Image_0_Question_0": "Yes", "Image_1_Question_0": "No"}
    return row | {"Image_0_Question_1": "A", "Image_1_Question_1": "B"} | more


def test_naturalbench(tmp_path, images):
    picture(images, "a.jpg", "5_1.jpg")
    rows = [naturalbench_row(Image_0="a.jpg", Image_1="5_1.jpg")]
    questions = load_visual_questions(f"naturalbench:{write(tmp_path / 'n.json', rows)}", images)
    assert [q.id for q in questions] == ["5-q0-i0", "5-q0-i1", "5-q1-i0", "5-q1-i1"]
    assert [q.answer for q in questions] == ["Yes", "No", "A", "B"]
    assert [q.options for q in questions] == [("Yes", "No")] * 2 + [("A", "B")] * 2
    assert [q.image.name for q in questions] == ["a.jpg", "5_1.jpg"] * 2 and questions[0].extra["group"] == "5"


def test_naturalbench_as_published(tmp_path, images):
    """Parquet with embedded images: unpacked once, then read by the names that the unpacking gave."""

    def embedded(colour):
        buffer = io.BytesIO()
        Image.new("RGB", (9, 9), colour).save(buffer, format="JPEG")
        return {"bytes": buffer.getvalue(), "path": None}

    rows = [naturalbench_row(i, Image_0=embedded("red"), Image_1=embedded("blue")) for i in (0, 1)]
    source = tmp_path / "train.parquet"
    pd.DataFrame(rows).rename(columns={"Question_Type": "Question Type"}).to_parquet(source)
    with pytest.raises(FileNotFoundError, match=r"8 of 8 questions .*Looked for 0_0\.jpg, 0_1\.jpg, 1_0\.jpg"):
        load_visual_questions(f"naturalbench:{source}", images)
    assert unpack_naturalbench([source], tmp_path / "out") == 4 and unpack_naturalbench([source], tmp_path / "out") == 0
    questions = load_visual_questions(f"naturalbench:{source}", tmp_path / "out")
    assert len(questions) == 8 and questions[1].image.name == "0_1.jpg" and questions[0].extra["type"] == "yes_no"
    assert Image.open(questions[1].image).getpixel((4, 4))[2] > 200
    pd.DataFrame([{"Index": 1}]).to_parquet(source)
    with pytest.raises(ValueError, match="expected a Parquet file of NaturalBench"):
        unpack_naturalbench([source], tmp_path / "out")


def test_absent_images_are_refused_or_listed_never_kept(tmp_path, images):
    rows = {str(i): gqa_row(image) for i, image in enumerate(["7", "x1", "n8", "x2", "7"])}
    source = f"gqa:{write(tmp_path / 'q.json', rows)}"
    message = (
        r"2 of 5 questions have no image in .*images, which has 4 files .*Looked for x1\.jpg, x2\.jpg .*missing='skip'"
    )
    with pytest.raises(FileNotFoundError, match=message):
        load_visual_questions(source, images)
    questions = load_visual_questions(source, images, missing="skip")
    assert [q.id for q in questions] == ["0", "2", "4"] and [s.id for s in questions.skipped] == ["1", "3"]
    assert questions.skipped[0].looked_for == ("x1.jpg", "x1.png", "x1.jpeg") and questions.describe()["skipped"] == 2
    assert [q.id for q in load_visual_questions(source, images, missing="skip", limit=2)] == ["0", "2"]
    with pytest.raises(FileNotFoundError, match="1 of 2 questions"):
        load_visual_questions(source, images, limit=2)
    assert len(load_visual_questions(source, images, limit=1)) == 1
    many = {str(i): gqa_row(f"y{i}") for i in range(30)}
    with pytest.raises(FileNotFoundError, match=r"30 of 30 .* and 20 more"):
        load_visual_questions(f"gqa:{write(tmp_path / 'q.json', many)}", images, missing="skip")


def test_an_image_named_with_its_folder(tmp_path, images):
    row = {"question_id": 1, "text": "Is there a mug?", "label": "yes"}
    for name in ("val2014/COCO_val2014_000000000042.jpg", "elsewhere/COCO_val2014_000000000042.jpg"):
        source = write(tmp_path / "p.json", [row | {"image": name}], lines=True)
        assert load_visual_questions(f"pope:{source}", images)[0].image.name == "COCO_val2014_000000000042.jpg"
    picture(tmp_path, "secret.jpg")
    for name in ("../secret.jpg", str(tmp_path / "secret.jpg")):
        source = write(tmp_path / "p.json", [row | {"image": name}], lines=True)
        with pytest.raises(FileNotFoundError, match="1 of 1 questions have no image"):
            load_visual_questions(f"pope:{source}", images)


def test_names_of_coco_images():
    assert coco_names(42)[0] == coco_names("42")[0] == "COCO_val2014_000000000042.jpg"
    assert coco_names("42")[1:] == (
        "COCO_train2014_000000000042.jpg",
        "COCO_test2015_000000000042.jpg",
        "COCO_test2014_000000000042.jpg",
        "000000000042.jpg",
        "000000000042.png",
    )
    assert coco_names("COCO_train2014_000000000042.jpg")[0] == "COCO_train2014_000000000042.jpg"
    assert coco_names("mug.jpg") == ("mug.jpg",)
    with pytest.raises(ValueError, match="the image is blank"):
        coco_names(None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no questions"),
        ("{}", "has no questions"),
        ("[]", "has no questions"),
        ('{"1": {"imageId": "7"', "no valid JSON .*damaged, or cut off"),
        ('{"1": {"imageId": "7", "question": "a", "answer": "b"}', "no valid JSON: expected ',', it ends there"),
        ('{"1": 5}', "row 1: 5 is not an object"),
        ("7", "begins with '7'"),
        ('{"1": {"question": "Is it?", "answer": "yes"}}', "there is no imageId; the row has question, answer"),
        ('{"1": {"imageId": "7", "question": "Is it?"}}', r"row 1 \(format 'gqa'\): there is no answer"),
        ('{"1": {"imageId": "7", "question": ["a"], "answer": "yes"}}', r"question is \['a'\], a list; expected text"),
        (
            '{"1": {"imageId": "7", "question": "a", "answer": "b", "object_positions": [{"x": 1}]}}',
            "expected x, y, w, h",
        ),
    ],
)
def test_bad_files_are_refused(tmp_path, images, text, message):
    (tmp_path / "q.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_visual_questions(f"gqa:{tmp_path / 'q.json'}", images)


def test_an_id_twice_is_refused(tmp_path, images):
    rows = [gqa_row(question_id="5"), gqa_row(question_id="6"), gqa_row(question_id="5")]
    with pytest.raises(ValueError, match=r"row 3: the id '5' is row 1's already"):
        load_visual_questions(f"gqa:{write(tmp_path / 'q.json', rows)}", images)
    (tmp_path / "q.json").write_text(f'{{"5": {json.dumps(gqa_row())}, "5": {json.dumps(gqa_row())}}}')
    with pytest.raises(ValueError, match="the id '5' is row 5's already"):
        load_visual_questions(f"gqa:{tmp_path / 'q.json'}", images)


def test_sources_and_options_are_checked(tmp_path, images):
    gqa = write(tmp_path / "q.json", {"1": gqa_row()})
    pope = write(tmp_path / "p.json", [{"image": "a", "text": "b", "label": "yes"}], lines=True)
    vqa = vqa_files(tmp_path / "vqa")
    for source, message in (
        (f"gqaa:{gqa}", r"'gqaa' is no data set .*Did you mean gqa:"),
        ("gqa:", "names no file"),
        (str(gqa), f"names no data set.*looks like gqa: source='gqa:{gqa}'"),
        (str(pope), "looks like pope"),
        (str(vqa), "looks like vqav2"),
        ("nothing.json", r"expected one of gqa:, pope:, cocoqa:, vqav2:, naturalbench: before the path\.$"),
    ):
        with pytest.raises(ValueError, match=message):
            load_visual_questions(source, images)
    with pytest.raises(FileNotFoundError, match=r"no file .*qq\.json\. Close matches: .*q\.json"):
        load_visual_questions(f"gqa:{tmp_path / 'qq.json'}", images)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        load_visual_questions(f"gqa:{gqa}", tmp_path / "absent")
    with pytest.raises(ValueError, match="limit=0"):
        load_visual_questions(f"gqa:{gqa}", images, limit=0)
    with pytest.raises(ValueError, match="expected 'refuse' or 'skip'"):
        load_visual_questions(f"gqa:{gqa}", images, missing="drop")
    with pytest.raises(ValueError, match="scene_graphs= is for gqa"):
        load_visual_questions(f"pope:{pope}", images, scene_graphs=gqa)
    with pytest.raises(ValueError, match="annotations= is for vqav2"):
        load_visual_questions(f"gqa:{gqa}", images, annotations=gqa)
    assert set(FORMATS) == {"gqa", "pope", "cocoqa", "vqav2", "naturalbench"}


def test_samples_and_hashes(tmp_path, images):
    rows = {str(i): gqa_row(question=f"Is it {i}?") for i in range(30)}
    source = f"gqa:{write(tmp_path / 'q.json', rows)}"
    questions = load_visual_questions(source, images)
    some = questions.sample(10)
    ids = [int(q.id) for q in some]
    assert len(set(ids)) == 10 and ids == sorted(ids) and ids != list(range(10))
    assert [q.id for q in questions.sample(10)] == [q.id for q in some] and questions.sample(99) is questions
    assert some.origin["sample"] == 10 and questions[2:4][0].id == "2" and questions.repeats == 0
    with pytest.raises(ValueError, match="n=0"):
        questions.sample(0)
    described = questions.describe()
    assert described["sha256"] == hash_visual_questions(questions) != hash_visual_questions(some)
    assert (described["n"], described["n_images"], described["levels"]) == (30, 1, {"attribute": 30})
    json.dumps(described)
    assert str(tmp_path) not in json.dumps(described)  # no machine's paths
    elsewhere = tmp_path / "elsewhere"
    picture(elsewhere, "7.jpg")
    assert hash_visual_questions(load_visual_questions(source, elsewhere)) == described["sha256"]


@pytest.mark.parametrize("chunk", [1, 2, 7, 64, 1 << 20])
def test_json_is_streamed_at_any_chunk(tmp_path, monkeypatch, chunk):
    """Equal to json.loads whatever the chunk cuts: strings, escapes, numbers, nesting."""
    monkeypatch.setattr(json_rows, "CHUNK", chunk)
    rows = [{"a": 'é\\"]}', "b": [1, 2.5e-3, {"c": None}], "d": 123456, "e": ""}, {"a": " , : {", "b": True}, {}]
    keyed = {f"k{i}": row for i, row in enumerate(rows)}
    for indent in (None, 2):
        (tmp_path / "a.json").write_text(json.dumps(rows, indent=indent), encoding="utf-8")
        assert [r.fields for r in stream_rows(tmp_path / "a.json")] == rows
        (tmp_path / "a.json").write_text(json.dumps(keyed, ensure_ascii=False, indent=indent), encoding="utf-8-sig")
        assert {r.key: r.fields for r in stream_rows(tmp_path / "a.json", keyed=True)} == keyed
        inside = {"n": 12345, "t": "x", "rows": rows, "after": 1}
        (tmp_path / "a.json").write_text(json.dumps(inside, indent=indent))
        assert [r.fields for r in stream_rows(tmp_path / "a.json", under="rows")] == rows


def test_a_sample_is_drawn_without_keeping_the_rest(tmp_path, images, monkeypatch):
    """The questions that a sample of all of them has, of two levels, where some have no image."""
    semantic, image = ("attr", "rel", "obj"), ("7", "n8", "none")
    rows = {str(i): gqa_row(image[i // 3 % 3], f"Is it {i}?", semantic=semantic[i % 3]) for i in range(90)}
    source, levels = f"gqa:{write(tmp_path / 'q.json', rows)}", ("attribute", "relationship")
    every = load_visual_questions(source, images, missing="skip", levels=levels)
    assert len(every) == 40 and len(every.skipped) == 20 and {q.level for q in every} == set(levels)
    made = []
    monkeypatch.setattr(visual_benchmarks, "VisualQuestion", lambda *a: (made.append(a[0]), VisualQuestion(*a))[1])
    some = load_visual_questions(source, images, missing="skip", levels=levels, sample=7, seed=3)
    assert some.questions == every.sample(7, 3).questions and len(made) == 7
    assert some.origin == {"format": "gqa", "file": "q.json", "limit": None, "sample": 7, "seed": 3}
    assert some.skipped == every.skipped and "sample" not in every.origin
    assert load_visual_questions(source, images, missing="skip", levels=levels, sample=40).questions == every.questions
    first = load_visual_questions(source, images, missing="skip", limit=9)
    assert (
        load_visual_questions(source, images, missing="skip", limit=9, sample=4).questions == first.sample(4).questions
    )
    with pytest.raises(ValueError, match=r"no question at level 'colour'; it has \['attribute', 'object', 'relation"):
        load_visual_questions(source, images, levels=["object", "colour"], sample=1)
    with pytest.raises(ValueError, match="sample=0; expected 1 or more questions"):
        load_visual_questions(source, images, sample=0)


def test_no_more_is_read_than_asked(tmp_path, images, monkeypatch):
    """The first questions of a file whose rest is damaged: never reached."""
    monkeypatch.setattr(json_rows, "CHUNK", 1000)
    rows = json.dumps({str(i): gqa_row() for i in range(100)})
    (tmp_path / "q.json").write_text(rows[:-2000] + "damaged")
    assert len(load_visual_questions(f"gqa:{tmp_path / 'q.json'}", images, limit=5)) == 5
    with pytest.raises(ValueError, match="no valid JSON"):
        load_visual_questions(f"gqa:{tmp_path / 'q.json'}", images)


def test_other_files(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n\n{"a": 2}\n')
    assert [(r.label, r.fields) for r in stream_rows(tmp_path / "a.jsonl")] == [("1", {"a": 1}), ("3", {"a": 2})]
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n{"a": \n')
    with pytest.raises(ValueError, match="line 2, column 7: invalid JSON"):
        list(stream_rows(tmp_path / "a.jsonl"))
    (tmp_path / "a.json").write_text('{"a": {"b": 1}}\n{"a": {"b": 2}}\n')  # an object a line, whatever the name
    assert [r.fields for r in stream_rows(tmp_path / "a.json")] == [{"a": {"b": 1}}, {"a": {"b": 2}}]
    (tmp_path / "a.json").write_text('{"a":\n {"b": 1}}\n{"a": {"b": 2}}\n')
    with pytest.raises(ValueError, match="line 3: there is more after the first value"):
        list(stream_rows(tmp_path / "a.json"))
    (tmp_path / "a.tsv").write_text("a\tb\n1\tx,y\n")
    assert [r.fields for r in stream_rows(tmp_path / "a.tsv")] == [{"a": "1", "b": "x,y"}]
    (tmp_path / "a.csv").write_bytes(b"a,b\n\xff,\xfe\n")
    with pytest.raises(ValueError, match=r"can't be read as \.csv"):
        list(stream_rows(tmp_path / "a.csv"))
    (tmp_path / "a.parquet").write_text("no parquet")
    with pytest.raises(ValueError, match=r"can't be read as \.parquet"):
        list(stream_rows(tmp_path / "a.parquet"))
    with pytest.raises(ValueError, match=r"unknown extension '\.xml'"):
        Path(tmp_path / "a.xml").write_text("<a/>")
        list(stream_rows(tmp_path / "a.xml"))

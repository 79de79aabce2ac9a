"""Visual questions as prompts: built when read, one wording for all, and what can't be judged left out and named."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import interp
from interp.vision.images import image_sha256
from probes.pairs.photo_pairs import save_pairs
from probes.pairs.scene_files import save_scenes
from probes.scenes.edits import edited_pairs
from probes.scenes.splits import scene_split
from probes.studies.left_out import first_names
from probes.visual_semantics.questions import prompts as visual_prompts
from probes.visual_semantics.questions.asked import Asked, describe_asked
from probes.visual_semantics.questions.benchmarks import VisualQuestion, load_visual_questions
from probes.visual_semantics.questions.prompts import (
    asked_of,
    benchmark_examples,
    processor_pixels,
    saved_scene_examples,
    scene_examples,
    visual_examples,
)
from probes.visual_semantics.questions.sources import read_source
from tests.interp.tiny_vision import SIDE, picture, tiny_vision
from tests.probes.pairs.test_pair_files import decisions_of, photo
from tests.probes.visual_tiny import llava


@pytest.fixture(scope="module")
def model() -> interp.Model:
    return llava()


@pytest.fixture(scope="module")
def bpe() -> interp.Model:
    """The same architecture with a tokenizer that splits most words."""
    tiny = tiny_vision("llava")
    return interp.load(tiny.hf, processor=tiny.processor)


SCENES = scene_split("test", 4, difficulty="hard")


def test_scenes_become_prompts_with_every_answer(model):
    examples = scene_examples(model, SCENES)
    assert len(examples) == sum(len(questions) for _, questions in SCENES)
    flat = [q for _, questions in SCENES for q in questions]
    for example, question in zip(examples, flat, strict=True):
        assert (example.question_text, example.gold) == (question.text, question.answer)
        assert (example.level, example.kind, example.form) == (question.level, question.kind, question.form)
        prompt = example.prompt
        assert prompt.gold == question.answer and {*question.options, "yes", "no"} == set(prompt.answers)
        assert prompt.image is not None and prompt.image.size == (96, 96)
        words = "".join(prompt.tokens[i] for i in prompt.span("question"))
        assert words.replace(" ", "") == question.text.replace(" ", "")
    assert {e.split for e in examples} == {"test"}


def test_prompt_is_the_models_own(model):
    scene, questions = SCENES[0]
    example = scene_examples(model, [(scene, questions)], pixels=40)[0]
    from probes.scenes.renderer import render

    direct = model.prompt(questions[0].text, image=render(scene, 40).image)
    assert direct.token_ids == example.prompt.token_ids
    assert direct.image.sha256 == example.prompt.image.sha256


def test_prompts_are_built_when_they_are_read(model, monkeypatch):
    built = []
    examples = scene_examples(model, SCENES)
    original = visual_prompts.Builder.prompt
    monkeypatch.setattr(visual_prompts.Builder, "prompt", lambda self, q: (built.append(q.id), original(self, q))[1])
    part = examples.where(level="attribute", kind=("yes_no", "open"))[1:3]
    assert len(part) == 2 and not built and all(q.level == "attribute" for q in asked_of(part))
    assert [e.id for e in part] == built and len(built) == 2


def test_ids_follow_the_content(model):
    twice = [scene_examples(model, SCENES) for _ in range(2)]
    assert twice[0].asked == twice[1].asked and len({q.id for q in twice[0].asked}) == len(twice[0])
    other = scene_examples(model, scene_split("test", 4, seed=1, difficulty="hard"))
    assert not {q.id for q in other.asked} & {q.id for q in twice[0].asked}
    assert describe_asked(twice[0].asked)["sha256"] == describe_asked(twice[1].asked)["sha256"]
    assert describe_asked(other.asked)["sha256"] != describe_asked(twice[0].asked)["sha256"]
    larger = scene_examples(model, SCENES, pixels=120)
    assert describe_asked(larger.asked)["sha256"] != describe_asked(twice[0].asked)["sha256"]


def test_choosing_and_sampling(model):
    examples = scene_examples(model, SCENES)
    assert {q.kind for q in examples.where(kind="open").asked} == {"open"}
    assert examples.sample(5, seed=3).asked == examples.sample(5, seed=3).asked
    assert len(examples.sample(5)) == 5 and examples.sample(10_000).asked == examples.asked
    with pytest.raises(ValueError, match=r"where\(colour=...\); expected some of form, gold"):
        examples.where(colour="red")
    with pytest.raises(ValueError, match="n=0; expected 1 or more"):
        examples.sample(0)


def test_gold_that_a_first_token_cannot_tell_is_left_out_and_named(bpe):
    """The tiny byte-pair tokenizer begins most shapes with a letter that others begin with too."""
    with pytest.warns(UserWarning, match=r"\d+ of \d+ questions can't be judged by the first token.*left out"):
        examples = scene_examples(bpe, SCENES)
    assert examples.left_out and not set(examples.left_out) & {q.id for q in examples.asked}
    assert all("shares its first token with" in reason for reason in examples.left_out.values())
    for example in examples:
        others = {
            t
            for word, ts in example.prompt.answers.items()
            if word in example.options
            for t in ts
            if word != example.gold
        }
        assert not others & set(example.prompt.answer_tokens("gold"))
    only = [Asked("a", "Which?", "star", ("star", "stripe"), image_id="0")]
    with pytest.raises(
        ValueError, match=r"1 of 1 questions can't be judged.*'star' shares its first token with 'stripe'"
    ):
        visual_examples(bpe, only, lambda q: picture())


def test_the_other_case_counts_only_as_one_whole_token(bpe):
    asked = [Asked("a", "Is it?", "yes", ("yes", "no"), image_id="0")]
    both = visual_examples(bpe, asked, lambda q: picture())[0].prompt.answers
    given = visual_examples(bpe, asked, lambda q: picture(), cases="as_given")[0].prompt.answers
    whole = bpe.tokenizer("\nYes", add_special_tokens=False)["input_ids"][-1]
    assert bpe.tokenizer.decode([whole]) == "Yes"
    assert len(given["yes"]) == 1 and both["yes"] == (*given["yes"], whole)
    with pytest.raises(ValueError, match="cases='upper'; expected 'both' or 'as_given'"):
        visual_examples(bpe, asked, lambda q: picture(), cases="upper")


def test_without_a_chat_template_the_wording_is_the_papers():
    plain = llava(chat=False)
    scene, questions = SCENES[0]
    prompt = scene_examples(plain, [(scene, questions)])[0].prompt
    place, text = prompt.text.rpartition("<image>")[::2]
    assert place.startswith("USER: ") and text == f"\n{questions[0].text} Please answer with a single word.\nASSISTANT:"
    asked = scene_examples(plain, [(scene, questions)], instruction="One word.")[0].prompt.text
    assert asked.endswith(f"{questions[0].text} One word.\nASSISTANT:")
    blip = tiny_vision("instructblip")
    loaded = interp.load(blip.hf, processor=blip.processor)
    prompt = visual_examples(loaded, [Asked("a", "Is it?", "yes", image_id="0")], lambda q: picture())[0].prompt
    assert prompt.text.endswith("Question: Is it? Answer using a single word.")
    given = "Please answer with a single word."
    prompt = visual_examples(loaded, [Asked("a", "Is it?", "yes", image_id="0")], lambda q: picture(), given)[0].prompt
    assert prompt.text.endswith(f"Question: Is it? {given}")


def test_a_benchmarks_sentence_is_the_models_own_or_the_one_given(pope):
    blip = tiny_vision("instructblip")
    loaded = interp.load(blip.hf, processor=blip.processor)
    source = read_source(f"pope:{pope / 'pope.json'}", images=pope / "images")
    for instruction in (None, "Please answer with a single word."):
        text = source.examples(loaded, instruction)[0].prompt.text
        assert text.endswith(f"image? {instruction or 'Answer using a single word.'}")


def test_a_sentence_may_follow_the_question(model):
    example = scene_examples(model, SCENES, instruction="Please answer with a single word.")[0]
    assert f"{example.question_text} Please answer with a single word." in example.prompt.text


def test_saved_pairs_are_asked_about_the_picture_before(model, tmp_path):
    save_scenes(edited_pairs("test", 3, difficulty="easy", pixels=32), tmp_path / "s")
    examples = saved_scene_examples(model, tmp_path / "s")
    pairs = list(edited_pairs("test", 3, difficulty="easy", pixels=32))
    assert [q.gold for q in examples.asked] == [p.answer_before for p in pairs]
    assert (
        examples[0].prompt.image.size == (32, 32) and len(read_source(f"scenes:{tmp_path / 's'}").examples(model)) == 3
    )


def test_photographs_are_asked_before_and_after_the_edit(model, tmp_path):
    made = [photo("first"), photo("spilt", 4, seed=1), photo("second", seed=2)]
    blue = np.array(made[2].after)
    blue[made[2].region] = (0, 0, 200)
    made.append(replace(made[2], after=Image.fromarray(blue), id="third"))  # another edit of the second's photograph
    save_pairs(made, tmp_path / "p")
    source = read_source(f"scenes:{tmp_path / 'p'}")
    examples = source.examples(model)
    assert [(q.id.split("-")[0], q.id.split("-")[-1], q.gold) for q in examples.asked] == [
        ("first", "before", "Yes"), ("first", "after", "No"), ("second", "before", "Yes"), ("second", "after", "No"),
        ("third", "after", "No"),
    ]  # fmt: skip
    assert {(q.level, q.kind, q.options) for q in examples.asked} == {("attribute", "yes_no", ("Yes", "No"))}
    photographs = [q.image_sha256 for q in examples.asked]
    assert [photographs.index(p) for p in photographs] == [0, 0, 2, 2, 2]
    assert [[q.image_id for q in examples.asked].index(q.image_id) for q in examples.asked] == [0, 0, 2, 2, 2]
    shown = [made[0].before, made[0].after, made[2].before, made[2].after, made[3].after]
    assert [e.prompt.image.sha256 for e in examples] == [image_sha256(picture) for picture in shown]
    assert "1 of 4 pairs are dropped: spilt: 20.0% of the changed pixels" in source.warnings[0]
    assert source.origin()["left_out"] == list(source.warnings) and source.origin()["source"] == "scenes:p"
    assert "3 edited pairs of scenes:" in str(source)
    assert len(read_source(f"scenes:{tmp_path / 'p'}", max_leak=1.0).examples(model)) == 7
    chosen = decisions_of(tmp_path / "d.json", [p.on_sheet() for p in made], second=True, first=False)
    source = read_source(f"scenes:{tmp_path / 'p'}", decisions=chosen)
    assert len(source.examples(model)) == 2 and "1 of 4 pairs were accepted in d.json" in source.warnings[0]
    with pytest.raises(ValueError, match=r"decisions go with a folder of edited photographs .*'scenes:test:easy:5'"):
        read_source("scenes:test:easy:5", decisions=chosen)
    with pytest.raises(ValueError, match="have no question at level object"):
        read_source(f"scenes:{tmp_path / 'p'}", levels=["object"]).examples(model)


@pytest.fixture
def pope(tmp_path) -> Path:
    """Six questions about two images, as POPE's file has them."""
    folder = tmp_path / "images"
    folder.mkdir()
    rows = []
    for i in range(6):
        name = f"COCO_val2014_{i // 3:012d}.png"
        picture(i // 3).save(folder / name)
        label = "yes" if i % 2 else "no"
        rows.append({"question_id": i + 1, "image": name, "text": f"Is there a {i} in the image?", "label": label})
    (tmp_path / "pope.json").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def test_benchmarks_are_asked_in_the_papers_words(model, pope):
    source = read_source(f"pope:{pope / 'pope.json'}", images=pope / "images")
    examples = source.examples(model)
    assert len(examples) == 6 and len({q.image_id for q in examples.asked}) == 2
    example = examples[1]
    assert (example.gold, example.kind, example.options) == ("Yes", "yes_no", ("Yes", "No"))
    assert "Please answer with a single word." in example.prompt.text
    assert len(source.examples(model, instruction="")[0].prompt) < len(examples[0].prompt)
    assert len(read_source(f"pope:{pope / 'pope.json'}", images=pope / "images", limit=2).examples(model)) == 2


def test_every_picture_that_cannot_be_used_is_named_before_any_work(model, pope):
    questions = list(load_visual_questions(f"pope:{pope / 'pope.json'}", pope / "images"))
    for number, path in enumerate(sorted((pope / "images").iterdir())):
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2] if number else b"nothing")
    with pytest.raises(ValueError, match=r"2 of 2 pictures can't be used: .*is no image.*; .*(damaged|ends too early)"):
        benchmark_examples(model, questions)
    gone = [replace(questions[0], image=pope / "none.png")]
    with pytest.raises(ValueError, match=r"1 of 1 pictures can't be used: .*none\.png: no such image file"):
        benchmark_examples(model, gone)


def test_absent_images_are_refused_or_listed(model, pope):
    next(iter((pope / "images").iterdir())).unlink()
    with pytest.raises(FileNotFoundError, match="3 of 6 questions have no image"):
        read_source(f"pope:{pope / 'pope.json'}", images=pope / "images")
    source = read_source(f"pope:{pope / 'pope.json'}", images=pope / "images", missing="skip")
    assert len(source.examples(model)) == 3 and "3 questions without an image are left out" in source.warnings[-1]


def test_sources_by_name(tmp_path):
    source = read_source("scenes:ood:0.3:5", seed=2, levels=["object"])
    assert (source.content.name, source.content.n, source.content.difficulty, source.content.seed) == ("ood", 5, 0.3, 2)
    assert source.origin()["source"] == "scenes:ood" and str(source) == "5 scenes of scenes:ood:0.3:5"
    with pytest.raises(ValueError, match="expected scenes:test:DIFFICULTY:N"):
        read_source("scenes:test:hard")
    with pytest.raises(ValueError, match="difficulty='tricky'; expected easy"):
        read_source("scenes:test:tricky:5")
    with pytest.raises(FileNotFoundError, match=r"has no scenes\.jsonl and no pairs\.json\. Expected a folder"):
        read_source(f"scenes:{tmp_path}")
    with pytest.raises(ValueError, match="draws its own pictures"):
        read_source("scenes:test:easy:5", images=tmp_path)
    with pytest.raises(ValueError, match="needs a folder of images"):
        read_source("gqa:questions.json")


def test_answers_that_the_model_cannot_say_are_left_out_and_never_scored(model, pope):
    rows = [
        {"question_id": str(i), "imageId": "COCO_val2014_000000000000", "question": "What is it?", "answer": answer}
        for i, answer in enumerate(["star", "giraffe", "red", "zebra crossing"])
    ]
    (pope / "gqa.json").write_text(json.dumps(rows))
    source = read_source(f"gqa:{pope / 'gqa.json'}", images=pope / "images")
    with pytest.warns(UserWarning, match="2 of 4 questions can't be judged by the first token"):
        examples = source.examples(model)
    assert [q.gold for q in examples.asked] == ["star", "red"] and list(examples.left_out) == ["1", "3"]
    assert all("is not in the tokenizer's vocabulary" in reason for reason in examples.left_out.values())
    (pope / "gqa.json").write_text(json.dumps(rows[1::2]))
    with pytest.raises(ValueError, match=r"2 of 2 questions can't be judged .*'giraffe' is not in the tokenizer's"):
        read_source(f"gqa:{pope / 'gqa.json'}", images=pope / "images").examples(model)


def test_what_is_skipped_is_named_in_the_provenance(model, pope):
    next(iter(sorted((pope / "images").iterdir()))).unlink()
    source = read_source(f"pope:{pope / 'pope.json'}", images=pope / "images", missing="skip")
    assert source.warnings == ("3 questions without an image are left out (pope-1, pope-2, pope-3).",)
    assert source.origin()["skipped"] == ["pope-1", "pope-2", "pope-3"] and source.origin()["one_sided"] is None
    left_out = source.examples(model).left_out
    assert left_out["pope-2"] == "no image: COCO_val2014_000000000000.png is not in the folder." and len(left_out) == 3
    assert first_names(list("abcdefg")) == "a, b, c, d, e and 2 more" and first_names(list("abcde")) == "a, b, c, d, e"


def test_only_the_sample_of_a_file_is_kept_and_judged(model, pope):
    name, images = f"pope:{pope / 'pope.json'}", pope / "images"
    every = read_source(name, images=images).content
    drawn = {seed: every.sample(2, seed).questions for seed in range(8)}
    for seed, questions in drawn.items():
        source = read_source(name, images=images, limit=2, seed=seed)
        assert source.content.questions == questions and str(source) == f"2 questions of {name}"
        assert (source.origin()["limit"], source.origin()["sample"]) == (2, 2)
    gone = sorted(images.iterdir())[0]
    seed = next(seed for seed, some in drawn.items() if all(q.image != gone for q in some))
    other = next(seed for seed, some in drawn.items() if any(q.image == gone for q in some))
    gone.unlink()
    assert read_source(name, images=images, limit=2, seed=seed).content.questions == drawn[seed]
    with pytest.raises(FileNotFoundError, match=r"[12] of 2 questions have no image"):
        read_source(name, images=images, limit=2, seed=other)
    skipping = read_source(name, images=images, limit=2, seed=other, missing="skip").content
    assert len(skipping) == 2 and len(skipping.skipped) == 3


def test_a_row_with_an_image_token_is_named_before_any_work(model, pope):
    rows = (pope / "pope.json").read_text().replace("Is there a 4", "Is there <image> a 4")
    (pope / "pope.json").write_text(rows)
    source = read_source(f"pope:{pope / 'pope.json'}", images=pope / "images")
    with pytest.raises(ValueError, match="question 'pope-5' has the image token '<image>' in its text; expected words"):
        source.examples(model)


def test_a_question_whose_prompt_fails_is_named(model, monkeypatch):
    examples = visual_examples(model, [Asked("a", "Is it?", "yes", image_id="0")], lambda q: picture())
    monkeypatch.setattr(model.processor, "chat_template", "{{ messages[0]['content'][1]['text'] }}")
    with pytest.raises(ValueError, match=r"question 'a': the text 'Is it\?' has no image token"):
        examples[0]


def test_transparency_is_told_once_for_each_picture(model, pope):
    for path in (pope / "images").iterdir():
        with Image.open(path) as image:
            clear = image.convert("RGBA")
        clear.putalpha(100)
        clear.save(path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        examples = read_source(f"pope:{pope / 'pope.json'}", images=pope / "images").examples(model)
        assert len([e.prompt for e in examples]) == 6
    told = [str(w.message).split(" is ")[0] for w in caught if "transparent" in str(w.message)]
    assert sorted(picture[-5:-4] for picture in told) == ["0", "1"]


def test_a_level_that_the_data_do_not_have(pope):
    with pytest.raises(ValueError, match="no question at level 'attribute'; it has"):
        read_source(f"pope:{pope / 'pope.json'}", images=pope / "images", levels=["attribute"])


def test_what_is_refused(model, llama):
    asked = [Asked("a", "Is it?", "yes", image_id="0")]
    with pytest.raises(ValueError, match="this model has no vision part"):
        visual_examples(llama, asked, lambda q: picture())
    with pytest.raises(ValueError, match="no visual questions were given"):
        visual_examples(model, [], lambda q: picture())
    with pytest.raises(ValueError, match="the id 'a' is given to two questions"):
        visual_examples(model, asked * 2, lambda q: picture())
    with pytest.raises(ValueError, match="no visual questions were given"):
        scene_examples(model, [])


def test_pictures_are_drawn_at_the_size_that_the_processor_wants(model):
    assert processor_pixels(model) == SIDE
    assert scene_examples(model, SCENES)[0].prompt.image.size == (96, 96)  # and no smaller than is legible


def test_questions_without_levels(model):
    question = VisualQuestion("a", "Is it?", Path("x.png"), "Yes", ("Yes", "No"))
    assert question.level is None
    image = Image.new("RGB", (20, 20), "red")
    asked = Asked("a", "Is it?", "Yes", ("Yes", "No"), image_id="x")
    assert visual_examples(model, [asked], lambda q: image)[0].level == ""

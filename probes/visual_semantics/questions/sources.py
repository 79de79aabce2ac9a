"""Where visual questions come from, by one name: drawn scenes, a folder of saved scenes, a benchmark's file.

    scenes:test:hard:200          200 scenes of a split at a difficulty, with their questions
    scenes:folder                 what `interp scenes make` wrote, or edited photographs of `interp scenes edit-photo`
    gqa:questions.json            a benchmark's file (or pope:, cocoqa:, vqav2:, naturalbench:), and a folder of images

A source is read and checked before a model is loaded, and then put to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from interp.door import public
from probes.pairs import PAIRS, RECORDS, UsedPairs, used_pairs
from probes.scenes import SPLITS, SceneSplit, scene_split
from probes.studies import first_names
from probes.visual_semantics.questions.benchmarks import VisualQuestions, load_visual_questions

if TYPE_CHECKING:
    from interp.models import Model
    from probes.visual_semantics.questions.prompts import VisualExamples
    from probes.visual_semantics.questions.wording import Cases


@dataclass(frozen=True)
class VisualSource:
    """Questions that were read, still without a model.

    Args:
        name: of the source, as :func:`read_source` was given it.
        content: drawn scenes, the folder of saved ones, edited photographs, or a benchmark's questions.
        levels: the ones to keep (none: all).
        limit: at most so many (None: all), drawn by ``seed``; a benchmark's questions are those already.
        seed: of the sample.
        warnings: what to know of them before an expensive run, a sentence each.
    """

    name: str
    content: SceneSplit | Path | UsedPairs | VisualQuestions
    levels: tuple[str, ...] = ()
    limit: int | None = None
    seed: int = 0
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        if isinstance(self.content, Path):
            return f"the scenes of {self.content}"
        if isinstance(self.content, UsedPairs):
            return f"{len(self.content.pairs)} edited pairs of {self.name}, asked before and after the edit"
        what = "scenes" if isinstance(self.content, SceneSplit) else "questions"
        return f"{len(self.content)} {what} of {self.name}"

    def examples(
        self, model: Model, instruction: str | None = None, cases: Cases = "both", pixels: int | None = None
    ) -> VisualExamples:
        """The questions as prompts of a model.

        Args:
            model: with a vision part and a processor.
            instruction: a sentence after the question; by default V-SEAM's for benchmarks, and none for scenes where
                there is a chat template.
            cases: whether "Yes" counts as "yes" too ("both"), or answers only as they are written ("as_given").
            pixels: height and width of scenes that are drawn; by default as the model's processor has them.

        Raises:
            ValueError: no question is left, and as :func:`probes.visual_semantics.questions.prompts.visual_examples`.
        """
        from probes.visual_semantics.questions.photo_questions import photo_pair_examples
        from probes.visual_semantics.questions.prompts import benchmark_examples, saved_scene_examples, scene_examples

        if isinstance(self.content, VisualQuestions):
            return benchmark_examples(model, self.content, instruction=instruction, cases=cases)
        if isinstance(self.content, Path):
            found = saved_scene_examples(model, self.content, instruction=instruction, cases=cases)
        elif isinstance(self.content, UsedPairs):
            found = photo_pair_examples(model, self.content.pairs, instruction=instruction, cases=cases)
        else:
            found = scene_examples(model, self.content, pixels, instruction=instruction, cases=cases)
        if self.levels:
            found = found.where(level=self.levels)
        if not len(found):
            raise ValueError(f"{self} have no question at level {', '.join(self.levels)}.")
        return found if self.limit is None else found.sample(self.limit, self.seed)

    def origin(self) -> dict[str, Any]:
        """For provenance: the same on another machine."""
        head: dict[str, Any] = {"levels_asked_for": list(self.levels), "limit": self.limit, "seed": self.seed}
        if isinstance(self.content, SceneSplit):
            c = self.content
            return head | {"source": f"scenes:{c.name}", "difficulty": c.difficulty, "n_scenes": c.n}
        if isinstance(self.content, Path):
            return head | {"source": f"scenes:{self.content.resolve().name}"}
        if isinstance(self.content, UsedPairs):
            folder = _folder(self.name).resolve().name
            return head | {"source": f"scenes:{folder}", "left_out": list(self.content.left_out)}
        known = {"one_sided": self.content.one_sided, "skipped": [s.id for s in self.content.skipped]}
        return {**self.content.origin, **head, "source": self.name.partition(":")[0], **known}


@public
def read_source(
    name: str,
    *,
    images: str | Path | None = None,
    levels: Sequence[str] = (),
    limit: int | None = None,
    seed: int = 0,
    missing: Literal["refuse", "skip"] = "refuse",
    annotations: str | Path | None = None,
    decisions: str | Path | None = None,
    max_leak: float = 0.0,
    columns: Mapping[str, str] | None = None,
) -> VisualSource:
    """Read a source by its name.

    Args:
        name: ``scenes:SPLIT:DIFFICULTY:N``, ``scenes:FOLDER``, or a data set and its file (``gqa:questions.json``).
        images: the folder of a benchmark's images.
        levels: keep questions of these alone (none: all).
        limit: at most so many questions, drawn by ``seed`` (None: all). Of a benchmark's file no more than that sample
            is kept, and no other image is looked for.
        seed: of drawn scenes, and of the sample.
        missing: whether a benchmark's question without an image is refused, or left out ("skip").
        annotations: the answers of a benchmark that has them apart (``vqav2:``).
        decisions: a sheet's, on a folder of edited photographs: pairs that no person accepted are left out.
        max_leak: the largest share of changed pixels outside the mask, 0 to 1: other pairs of such a folder are left
            out. Both are listed in ``warnings`` and ``origin``, as :func:`probes.pairs.files.used_pairs` has them.
        columns: a benchmark's file's names for the data set's.

    Raises:
        ValueError: a name that is none, images without a benchmark or the other way round, decisions without
            photographs, a level that the data don't have, a folder with both kinds of pairs.
        FileNotFoundError: a file or folder that is not there.

    A benchmark's errors are those of :func:`probes.visual_semantics.questions.benchmarks.load_visual_questions`.
    """
    levels = tuple(dict.fromkeys(levels))
    if name.startswith("scenes:"):
        if images is not None or annotations is not None:
            raise ValueError(f"{name!r} draws its own pictures; leave out images= and annotations=.")
        if columns:
            raise ValueError(f"{name!r} is no file with columns; leave them out.")
        content = _scenes(name, seed, decisions, max_leak)
        if not isinstance(content, UsedPairs):
            _require_no_decisions(name, decisions)
        said = content.left_out if isinstance(content, UsedPairs) else ()
        return VisualSource(name, content, levels, limit, seed, said)
    _require_no_decisions(name, decisions)
    if images is None:
        raise ValueError(
            f"{name!r} needs a folder of images, images=... Drawn scenes need none: scenes:test:hard:200, or "
            "scenes:FOLDER."
        )
    questions = load_visual_questions(
        name, images, annotations=annotations, missing=missing, levels=levels, sample=limit, seed=seed, columns=columns
    )
    said = [questions.one_sided] if questions.one_sided else []
    if questions.skipped:
        listed = first_names([s.id for s in questions.skipped])
        said.append(f"{len(questions.skipped)} questions without an image are left out ({listed}).")
    return VisualSource(name, questions, levels, limit, seed, tuple(said))


def _require_no_decisions(name: str, decisions: str | Path | None) -> None:
    if decisions is not None:
        raise ValueError(
            f"decisions go with a folder of edited photographs ({PAIRS}), not {name!r}; leave out decisions=..."
        )


def _folder(name: str) -> Path:
    return Path(name.removeprefix("scenes:")).expanduser()


def _scenes(name: str, seed: int, decisions: str | Path | None, max_leak: float) -> SceneSplit | Path | UsedPairs:
    _, first, *rest = name.split(":")
    if first in SPLITS:
        if len(rest) != 2 or not rest[1].isdecimal() or not int(rest[1]):
            raise ValueError(f"{name!r}; expected scenes:{first}:DIFFICULTY:N, such as scenes:{first}:hard:200.")
        try:
            difficulty: str | float = float(rest[0])
        except ValueError:
            difficulty = rest[0]
        return scene_split(first, int(rest[1]), seed, difficulty)
    folder = _folder(name)
    if (folder / PAIRS).is_file():
        return used_pairs(folder, decisions, max_leak)
    if not (folder / RECORDS).is_file():
        raise FileNotFoundError(
            f"{name!r}: {folder} has no {RECORDS} and no {PAIRS}. Expected a folder that `interp scenes make` or "
            f"`interp scenes edit-photo` wrote, or a split: scenes:{{{','.join(SPLITS)}}}:DIFFICULTY:N."
        )
    return folder

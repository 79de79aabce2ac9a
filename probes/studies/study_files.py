"""The folder of a study that is asked again by code: its texts as arrays for part files, and one JSON file of its own
beside the report, from which the study is loaded."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from interp.records import RecordError, clear_parts, keep_parts_of, read_record, run_batches, understood, write_record
from probes.studies.runs import require_place

Study = TypeVar("Study")
FORMAT_VERSION = 1


def finished(
    out: str | Path,
    file: str,
    run_id: str,
    settings: Mapping[str, Any],
    batch_size: int,
    n_items: int,
    resume: bool,
    overwrite: bool,
) -> bool:
    """Whether ``out`` holds the finished report of this run and ``resume`` asks for it. Refuses, before any work, what
    saving would refuse later: another run's report, another run's part files, a folder that can't be written."""
    directory = Path(out)
    of_parts = {"batch_size": batch_size, "n_items": n_items, **settings}
    require_place(directory, run_id, of_parts, resume, overwrite, need_mib=20)
    if not (resume and (directory / file).is_file()):
        return False
    try:
        with understood(directory / file):
            return read_record(directory / file)["provenance"]["run_id"] == run_id
    except RecordError as error:
        warnings.warn(f"{error} The study is run again.", stacklevel=4)
        return False


class StudyFolder:
    """Where a study keeps its part files and then its report, if anywhere (``out``).

    ``is_finished``: whether its report is there already and ``resume`` asks for it (:func:`finished`, which refuses
    another run's folder before any work). ``settings``: what part files must agree in.
    """

    def __init__(
        self,
        out: str | Path | None,
        file: str,
        run_id: str,
        settings: Mapping[str, Any],
        batch_size: int,
        n_items: int,
        resume: bool,
        overwrite: bool,
    ) -> None:
        self.out, self.batch_size = None if out is None else Path(out), batch_size
        self.settings, self.n_items, self.resume, self.overwrite = settings, n_items, resume, overwrite
        self._has_steps = False
        self.is_finished = self.out is not None and finished(
            self.out, file, run_id, settings, batch_size, n_items, resume, overwrite
        )

    def run(
        self, items: Sequence[Any], score: Callable[[Sequence[Any]], dict[str, np.ndarray]], title: str
    ) -> dict[str, np.ndarray]:
        """``score`` over batches of all items, kept in part files as they come: for a study of one step."""
        return run_batches(
            items,
            score,
            batch_size=self.batch_size,
            directory=self.out,
            settings=self.settings,
            resume=self.resume,
            title=title,
        )

    def step(self, name: str) -> Path | None:
        """The folder of one step, for :func:`interp.records.work.run_batches`; None where nothing is kept."""
        if self.out is None:
            return None
        if not self._has_steps:
            record = {"batch_size": self.batch_size, "n_items": self.n_items, **self.settings}
            keep_parts_of(self.out, record, self.resume, discard=self.overwrite)
            self._has_steps = True
        return self.out / "parts" / name

    def saved(self, study: Study, include_replies: bool) -> Study:
        """The study, its report written and its part files cleared."""
        if self.out is not None:
            study.save(self.out, include_replies=include_replies, overwrite=self.overwrite)
            clear_parts(self.out)
        return study


def write_study(path: Path, asked: Sequence[Any], **content: Any) -> None:
    """Write what was asked (dataclasses) and JSON content to ``path``, whole or not at all."""
    write_record(path, {"format_version": FORMAT_VERSION, "questions": [asdict(q) for q in asked], **content})


def read_study(path: Path, build: Callable[[tuple[Any, ...], dict[str, Any]], Study], of: type[Any]) -> Study:
    """What ``build`` makes of the questions (or whatever was asked: ``of``) and the content of :func:`write_study`.

    Raises ``FileNotFoundError`` where there is no such file and ``ValueError`` for one that was changed or damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path.parent} has no {path.name}: it is not the folder of a finished run. If the run was interrupted, "
            "run the same again: it goes on."
        )
    data = read_record(path, FORMAT_VERSION)
    with understood(path):
        names = {f.name for f in fields(of)}
        rows = [{k: tuple(v) if isinstance(v, list) else v for k, v in row.items()} for row in data["questions"]]
        return build(tuple(of(**{k: v for k, v in row.items() if k in names}) for row in rows), data)


def pack_texts(rows: Sequence[Sequence[str]]) -> dict[str, np.ndarray]:
    """Texts [example][sample] as arrays for part files: UTF-8 bytes, and lengths [example, sample]."""
    encoded = [[text.encode() for text in row] for row in rows]
    joined = b"".join(itertools.chain.from_iterable(encoded))
    lengths = np.array([[len(text) for text in row] for row in encoded], dtype=np.int64)
    return {"text": np.frombuffer(joined, dtype=np.uint8).copy(), "length": lengths}


def unpack_texts(text: np.ndarray, length: np.ndarray) -> list[list[str]]:
    """The texts of :func:`pack_texts`."""
    ends = np.cumsum(length)
    pieces = [text[end - size : end].tobytes().decode() for end, size in zip(ends, length.ravel(), strict=True)]
    width = length.shape[1]
    return [pieces[i : i + width] for i in range(0, len(pieces), width)]

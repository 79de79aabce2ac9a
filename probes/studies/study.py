"""One run of a study, from start to end: what it is, where it is kept, how far it is, and what is said of it.

The science of a study is a function of a batch. All else is here, once:

>>> study = Study("Jailbreaks", model, prompts, data=data, settings=settings, keep=keep)
>>> if study.found is not None:  # these very settings, finished before
...     return study.found
>>> arrays = study.run(requests, look)
>>> return study.done(JailbreakStudy(arrays, study.provenance()))

What a run *is*: the weights, adapters and edits that computed, the token ids of its prompts, its data, its settings
(:mod:`interp.passes.identity`). Part files and the report carry that; what is of another run is never taken for this.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from interp.models import Model
from interp.prompts import Prompt
from interp.records import (
    Keep,
    Kept,
    clear_parts,
    keep_of,
    keep_parts_of,
    merged_from,
    now,
    place_of,
    run_batches,
    this_worker,
)
from interp.reports import is_whole, load_result, saved_run
from probes.studies.runs import parts_identity, require_place, study_provenance

Item = TypeVar("Item")
Result = TypeVar("Result")
Arrays = dict[str, np.ndarray]


class Study:
    """One run of a study.

    Args:
        title: of the study; with the model's name that of its report.
        prompts: all that the model reads: their token ids are a part of what the run is.
        data: what provenance says of the data, beside the ``origin`` of ``keep``; ``sha256`` and ``n`` at least.
        settings: what changes a number. Sizes of batches do not.
        afterwards: settings of what is made of the numbers, once all are there: a part of the run, not of its part
            files, which a run with others goes on from.
        n_items: what part files count, so that no run is taken for one of another size; by default the data's ``n``.
        keep: where it is kept, if anywhere.
        with_replies: whether the study has replies that may be harmful; its part files hold them only where
            ``holds_texts``.
        need_mib: of disk; by default the page, and some scores of every head for every item.
        is_stream: whether the work is a stream of batches, which several processes can share: shards (``Keep.shard``),
            or the workers of an engine.

    Raises ``OtherRunError`` before any work for a folder that holds another run, ``OSError`` for one that can't be
    written or has no room, and ``ValueError`` for a shard of work that is no stream of batches.
    """

    def __init__(
        self,
        title: str,
        model: Model,
        prompts: Iterable[Prompt],
        *,
        data: Mapping[str, Any],
        settings: Mapping[str, Any],
        afterwards: Mapping[str, Any] | None = None,
        n_items: int | None = None,
        batch_size: int = 8,
        keep: Kept = None,
        with_replies: bool = False,
        citation: Sequence[str] = (),
        caveats: Sequence[str] = (),
        need_mib: float | None = None,
        is_stream: bool = True,
    ) -> None:
        self.began = time.perf_counter()
        self.title, self.model, self.batch_size = title, model, batch_size
        self.keep: Keep = keep_of(keep)
        self._is_part = place_of(self.keep.folder) is not None or this_worker() is not None
        if self._is_part and not is_stream:
            raise ValueError(
                f"{title} can't be shared among processes: each step follows from the one before. Leave out shard=, "
                "or the engine."
            )
        self.settings = {**settings, **(afterwards or {})}
        data = {**(self.keep.origin or {}), **data}
        self._provenance = study_provenance(
            title, model, prompts, data, self.settings, citation, caveats, self.keep.folder
        )
        self._provenance["settings"] = self.settings | {"batch_size": batch_size}  # how it was run; no part of the id
        n_items = int(data["n"] if n_items is None else n_items)
        parts = {"title": title, **parts_identity(self._provenance), **settings}
        if with_replies:
            parts["include_replies"] = self.keep.include_replies
        self._parts = {"batch_size": batch_size, "n_items": n_items, **parts}
        self._has_steps = False
        scores_mib = 8 * n_items * model.n_layers * model.n_heads * 4 / 2**20
        self.found: Any = self._finished(20 + 3 * scores_mib if need_mib is None else need_mib)

    @property
    def id(self) -> str:
        """Twelve hex digits: the same computation, prompts, data and settings give the same."""
        return self._provenance["run_id"]

    @property
    def holds_texts(self) -> bool:
        """Whether replies are kept: they were asked for, or nothing is written at all."""
        return self.keep.include_replies or self.keep.folder is None

    def run(
        self,
        items: Sequence[Item],
        score: Callable[[Sequence[Item]], Arrays],
        step: str | None = None,
        batch_size: int | None = None,
        prompts: Sequence[Prompt] | None = None,
        **of_step: Any,
    ) -> Arrays:
        """``score`` over batches of the items, joined; kept batch by batch as they come. A study of several steps names
        them, with what the steps before it decided that its numbers depend on. ``batch_size``: of a step, if not the
        study's. ``prompts``: of each item, by which batches are made: those of one length, and of one beginning, are
        cheap together. Arrays are in the order of the items."""
        order = np.arange(len(items))
        if prompts is not None:
            order = np.array(sorted(order, key=lambda i: (len(prompts[i]), prompts[i].token_ids)))
        arrays = run_batches(
            [items[i] for i in order] if prompts is not None else items,
            score,
            batch_size=batch_size or self.batch_size,
            directory=self.keep.folder if step is None else self.step(step),
            settings=self._parts if step is None else of_step,
            resume=self.keep.resume or step is not None,
            title=step or self.title,
        )
        return arrays if prompts is None else {name: array[order.argsort()] for name, array in arrays.items()}

    def step(self, name: str) -> Path | None:
        """The folder of one step's part files; None where nothing is kept."""
        if self.keep.folder is None:
            return None
        if not self._has_steps:
            keep_parts_of(self.keep.folder, self._parts, self.keep.resume, discard=self.keep.overwrite)
            self._has_steps = True
        return self.keep.folder / "parts" / name

    def provenance(self, **more: Any) -> dict[str, Any]:
        """What the result needs to be traced and repeated, with the time until now."""
        timed = {"created": now(), "seconds": round(time.perf_counter() - self.began, 1)}
        shared = {} if self.keep.folder is None else merged_from(self.keep.folder)
        return self._provenance | timed | shared | more

    def done(self, result: Result, **more: Any) -> Result:
        """The result, its report written and the part files cleared; in a shard or a worker, neither."""
        if self.keep.folder is not None and not self._is_part:
            if self.keep.include_replies:
                more["include_replies"] = True
            result.save(self.keep.folder, overwrite=self.keep.overwrite, **more)
            clear_parts(self.keep.folder)
        return result

    def _finished(self, need_mib: float) -> Any:
        """The result of these very settings, if it is there and asked for."""
        folder = self.keep.folder
        if folder is None:
            return None
        require_place(folder, self.id, self._parts, self.keep.resume, self.keep.overwrite, need_mib)
        if self.keep.resume and (saved_run(folder) or {}).get("run_id") == self.id and is_whole(folder):
            return load_result(folder)
        return None

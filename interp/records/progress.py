"""How far long work is: a live bar in a terminal and in a notebook, else a line every 30 seconds.

Only the outermost work is shown: a scan inside a study's batches says nothing of its own. Nor does a worker of an
engine: its driver shows how far they all are.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

from interp.records.workers import this_worker

INTERVAL_S = 30.0
"""Seconds between two lines where there is no terminal."""
SHORT_S = 2.0
"""Work that is done sooner leaves no trace in a notebook."""

_IS_SHOWN: ContextVar[bool] = ContextVar("a progress is shown", default=False)


@contextmanager
def showing_progress(title: str, total: int, after_s: float = 0.0) -> Iterator[Callable[[int], None]]:
    """Show how far the work in the block is; call what this gives with each number of items that is done.

    Args:
        title: what is done.
        total: all items.
        after_s: show nothing of work that is done sooner.
    """
    if _IS_SHOWN.get() or this_worker():
        yield lambda n: None
        return
    token = _IS_SHOWN.set(True)
    shown = _Shown(title, total, after_s)
    try:
        yield shown.advance
    finally:
        shown.close()
        _IS_SHOWN.reset(token)


def in_time(seconds: float) -> str:
    """A duration in the unit that suits it."""
    minutes = seconds / 60
    if seconds < 1:
        return "a second"
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


class _View(Protocol):
    def show(self, done: int) -> None: ...

    def close(self) -> None: ...


class _Shown:
    """Begins a view when the work has taken long enough."""

    def __init__(self, title: str, total: int, after_s: float) -> None:
        self._title, self._total, self._after_s = title, total, after_s
        self._began, self._done = time.monotonic(), 0
        self._view: _View | None = None
        self._begin()

    def advance(self, n: int) -> None:
        self._done += n
        self._begin()
        if self._view is not None:
            self._view.show(self._done)

    def close(self) -> None:
        if self._view is not None:
            self._view.close()

    def _begin(self) -> None:
        if self._view is None and time.monotonic() - self._began >= self._after_s:
            kind = _Bar if sys.stderr.isatty() else _Cell if _in_notebook() else _Lines
            self._view = kind(self._title, self._total, self._began)


class _Bar:
    """A bar in a terminal."""

    def __init__(self, title: str, total: int, began: float) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=Console(stderr=True))
        self._task = self._bar.add_task(title, total=total)
        self._bar.start()

    def show(self, done: int) -> None:
        self._bar.update(self._task, completed=done)

    def close(self) -> None:
        self._bar.stop()


class _Cell:
    """A bar in a notebook's output, which is empty again when the work is done."""

    def __init__(self, title: str, total: int, began: float) -> None:
        self._title, self._total, self._began, self._last = title, total, began, 0.0
        self._handle: Any = None

    def show(self, done: int) -> None:
        from IPython.display import HTML, display

        now = time.monotonic()
        if now - self._began < SHORT_S or now - self._last < 0.3:
            return
        self._last = now
        said = told(self._title, done, self._total, now - self._began)
        bar = HTML(f"<progress max='{self._total}' value='{done}'></progress> {said}")
        if self._handle is None:
            self._handle = display(bar, display_id=True)
        else:
            self._handle.update(bar)

    def close(self) -> None:
        if self._handle is not None:
            from IPython.display import HTML

            self._handle.update(HTML(""))


class _Lines:
    """A line every so often, also while a batch takes long."""

    def __init__(self, title: str, total: int, began: float) -> None:
        self._title, self._total, self._began, self._done = title, total, began, 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"progress of {title}", daemon=True)
        self._thread.start()

    def show(self, done: int) -> None:
        self._done = done

    def close(self) -> None:
        self._stopped.set()
        self._thread.join(timeout=1)

    def _run(self) -> None:
        while not self._stopped.wait(INTERVAL_S):
            line = told(self._title, self._done, self._total, time.monotonic() - self._began)
            print(line, file=sys.stderr, flush=True)


def told(title: str, done: int, total: int, seconds: float) -> str:
    """How far it is, in words; the time left at the speed until now."""
    so_far = f"{title}: {done} of {total} after {in_time(seconds)}"
    return f"{so_far}, about {in_time(seconds / done * (total - done))} left" if 0 < done < total else so_far


def _in_notebook() -> bool:
    return "ipykernel" in sys.modules and "IPython" in sys.modules and hasattr(sys.stderr, "parent_header")

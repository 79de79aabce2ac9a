"""One thread at a time: whose turn it is to run, hook or change a transformers model.

Hooks, replaced forwards and the swapped attention belong to the modules, not to the call that put them there. So
whoever uses them takes the model's turn first: one re-entrant lock for each transformers model, which several
:class:`interp.models.model.Model` of it share. It is kept beside the model, so that a model can still be copied and
pickled.
"""

from __future__ import annotations

import functools
import threading
from asyncio.events import _get_running_loop
from asyncio.tasks import current_task
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

from torch import nn

P = ParamSpec("P")
R = TypeVar("R")


class ModelInUse(RuntimeError):
    """The model can't be waited for: the wait would never end, or another coroutine of this thread edits it."""


class Turn:
    """The lock of one transformers model. ``session``: what is attached to the model now
    (:mod:`interp.architecture.hooks`). ``decoder_path``: the name of the module that holds its blocks. ``edits_act``:
    it was shown that a scan's edits move its logits."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._depth, self._task = 0, None
        self.owner: int | None = None  # the thread
        self.session: Any = None
        self.decoder_path: str | None = None
        self.edits_act = False

    @property
    def is_mine(self) -> bool:
        """Whether this thread has it."""
        return self.owner == threading.get_ident()

    def take(self) -> None:
        task = _task()
        if self.is_mine:
            if self._task is not None and self._task is not task:
                raise ModelInUse(
                    "another coroutine of this thread is inside a block that edits or reads this model, and waits for "
                    "something else meanwhile: its edit would act here too. Don't await inside such a block; or give "
                    "each block to a thread of its own (asyncio.to_thread), which then wait for each other."
                )
        elif not self._lock.acquire(blocking=False):
            _wait_for(self)
        self.owner, self._depth = threading.get_ident(), self._depth + 1
        if self._depth == 1:
            self._task = task

    def release(self) -> None:
        self._depth -= 1
        if self._depth == 0:
            self.owner = self._task = None
            self._lock.release()


class alone:
    """While active, no other thread runs, hooks or changes the transformers model through this package: it waits.

    Re-entrant. Passes of the bare ``hf`` in other threads don't wait; what is attached here does not act on them.
    Coroutines of one thread can't wait for each other: one that would act inside another's block raises
    :class:`ModelInUse`, and so does a thread that waits for a model whose user waits for this thread.
    """

    def __init__(self, hf: nn.Module) -> None:
        self._turn = turn_of(hf)

    def __enter__(self) -> Turn:
        self._turn.take()
        return self._turn

    def __exit__(self, *exception: object) -> None:
        self._turn.release()


def one_at_a_time(function: Callable[Concatenate[Any, P], R]) -> Callable[Concatenate[Any, P], R]:
    """The function, whose first argument is a ``Model``, has the model to itself from beginning to end."""

    @functools.wraps(function)
    def in_turn(model: Any, *args: P.args, **kwargs: P.kwargs) -> R:
        hf = getattr(model, "hf", None)
        if not isinstance(hf, nn.Module):  # the function says what is wrong with it
            return function(model, *args, **kwargs)
        with alone(hf):
            return function(model, *args, **kwargs)

    return in_turn


def turn_of(hf: nn.Module) -> Turn:
    """The one turn of this model."""
    with _registry:
        turn = _turns.get(hf)
        if turn is None:
            turn = _turns[hf] = Turn()
        return turn


_registry = threading.Lock()
_turns: WeakKeyDictionary[nn.Module, Turn] = WeakKeyDictionary()
_waiting: dict[int, Turn] = {}  # what each waiting thread waits for


def _wait_for(turn: Turn) -> None:
    """Take the lock when it is free; refuse a wait that closes a ring of threads that wait for each other."""
    me = threading.get_ident()
    with _registry:
        owner = turn.owner
        while owner is not None and (wanted := _waiting.get(owner)) is not None:
            owner = wanted.owner
            if owner == me:
                raise ModelInUse(
                    "this thread has one model and waits for another, whose user waits for the first: neither would "
                    "ever go on. Take models in the same order in all threads, or leave the edit's block first."
                )
        _waiting[me] = turn
    try:
        turn._lock.acquire()
    finally:
        with _registry:
            del _waiting[me]


def _task() -> Any:
    """The asyncio task that runs here; None outside of any."""
    loop = _get_running_loop()
    return None if loop is None else current_task(loop)

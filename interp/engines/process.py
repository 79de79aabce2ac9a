"""A worker's process: the study runs in a thread of it, which stops at each request until the driver has answered."""

from __future__ import annotations

import hashlib
import os
import queue
import socket
import threading
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from interp.records import versions
from interp.records.workers import Take, is_of_memory, working_for


class Hello(NamedTuple):
    """What a worker is: where it runs, whether it found the driver's folder there, and what computes."""

    host: str
    pid: int
    is_in_place: bool
    versions: Mapping[str, str]


class Said(NamedTuple):
    """What comes out of a worker: a request, or how it ended (``request`` None), and what its batch warned of: all else
    is said again by the one that writes the report.

    ``failed``: the error in words, "" where the study came to its end; ``is_of_memory``: whether it was too little
    memory.
    """

    request: Any
    warned: tuple[str, ...] = ()
    failed: str = ""
    is_of_memory: bool = False


class WorkerProcess:
    """One worker. Every call returns what the study says next."""

    def __init__(self) -> None:
        self._to_study: queue.Queue[Any] = queue.Queue()
        self._from_study: queue.Queue[Said] = queue.Queue()
        self._warned: list[str] = []

    def hello(self, folder: str, environment: Mapping[str, str]) -> Hello:
        """Go to the driver's folder, take over settings of its environment, and say what is here."""
        os.environ.update(environment)
        is_in_place = Path(folder).is_dir()
        if is_in_place:
            os.chdir(folder)
        return Hello(socket.gethostname(), os.getpid(), is_in_place, what_computes())

    def begin(self, study: Callable[[], Any]) -> Said:
        """Start the study."""
        threading.Thread(target=self._run, args=(study,), name="study", daemon=True).start()
        return self._from_study.get()

    def answer(self, answer: Any) -> Said:
        """Let the study go on with this answer to its request."""
        self._to_study.put(answer)
        return self._from_study.get()

    def _run(self, study: Callable[[], Any]) -> None:
        def ask(request: Any) -> Any:
            warned, self._warned = tuple(self._warned), []
            is_of_batch = isinstance(request, Take) and request.finished is not None
            self._from_study.put(Said(request, warned if is_of_batch else ()))
            return self._to_study.get()

        def hear(message: Warning | str, *where: object) -> None:
            self._warned.append(str(message))

        with warnings.catch_warnings():
            warnings.showwarning = hear
            try:
                with working_for(ask):
                    study()
                ended = Said(None)
            except BaseException as error:
                told = f"{type(error).__name__}: {error}"
                ended = Said(None, failed=told, is_of_memory=is_of_memory(error))
        self._from_study.put(ended)


def what_computes() -> dict[str, str]:
    """Versions of what the numbers depend on, and a hash of this package's own code: a checkout that was changed has
    the version that it had before."""
    digest = hashlib.sha256()
    package = Path(__file__).parents[1]
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + path.read_bytes())
    return {**versions(), "headscope's code": digest.hexdigest()[:12]}

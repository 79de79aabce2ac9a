"""What every result of a study can do, however it is reported.

A result is a value: numbers, and where they come from. Its report (:class:`interp.reports.findings.Findings`) is made
by ``findings_of`` of another module, which the class names. So a result is read and compared without its figures.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, ClassVar

from interp.reports.findings import Findings


class Result:
    """A result, whose report is made by ``findings_of(result, **options)`` of the module ``report``:

    >>> class Beans(Result, report="beans.report"): ...
    """

    _report: ClassVar[str] = ""

    def __init_subclass__(cls, report: str = "", **more: Any) -> None:
        super().__init_subclass__(**more)
        cls._report = report or cls._report

    def to_findings(self, **options: Any) -> Findings:
        """Sentences, tables, figures and raw numbers, ready to be read and saved."""
        return import_module(self._report).findings_of(self, **options)

    def statement(self) -> list[str]:
        """The verdict first, in sentences, from the numbers alone."""
        return list(self.to_findings().statement)

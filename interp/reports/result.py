"""What every result of a study can do: say its verdict first, make its report, be saved and read back.

A result is a frozen dataclass: numbers, and where they come from (``provenance``). Its report
(:class:`interp.reports.findings.Findings`) is made by ``findings_of`` of another module, which the class names; so a
result is read and compared without its figures. Saving writes the report and the value itself, field by field
(:mod:`interp.reports.saved`), and :func:`load_result` reads any of them.
"""

from __future__ import annotations

import html
import inspect
from collections.abc import Mapping
from copy import copy
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from interp.door import public
from interp.records import keeps_work, understood
from interp.reports.computed import computed, restore
from interp.reports.findings import RECORD, Findings, findings_in, load_findings, saved_arrays
from interp.reports.folder import read_report_record
from interp.reports.markdown import markdown, narrow
from interp.reports.papers import bibtex, latex, methods
from interp.reports.saved import packed, unpacked

if TYPE_CHECKING:
    import plotly.graph_objects as go

_SHOWN = 10  # rows of the table in a notebook


class Result:
    """A result. Its report is made by ``findings_of(result, ...)`` of the module ``report``; ``figure``: its main one.

    >>> @dataclass(frozen=True, eq=False, repr=False)
    ... class Beans(Result, report="beans.report", figure="Beans by colour"):
    ...     counts: pd.DataFrame
    ...     replies: tuple[str, ...] | None = field(metadata={"withheld": True})  # kept only if asked for
    ...     provenance: Mapping[str, Any]

    ``findings_of`` takes the result, ``include_replies`` if it has texts to show, and further options by name.
    """

    provenance: Mapping[str, Any]
    _report: ClassVar[str] = ""

    _figure: ClassVar[str] = ""

    def __init_subclass__(cls, report: str = "", figure: str = "", **more: Any) -> None:
        super().__init_subclass__(**more)
        cls._report, cls._figure = report or cls._report, figure or cls._figure

    def to_findings(self, include_replies: bool = False, **options: Any) -> Findings:
        """Sentences, tables, figures and raw numbers, ready to be read and saved. Texts of requests and replies stand
        in it only with ``include_replies``.

        ``options`` go to the study's own ``findings_of``. Without any, the report is made once and kept; its tables
        and figures are handed out as copies.
        """
        findings_of = import_module(self._report).findings_of
        if "include_replies" in inspect.signature(findings_of).parameters:
            options["include_replies"] = include_replies
        if options.keys() - {"include_replies"}:
            return findings_of(self, **options)
        kept = self.__dict__.setdefault("_findings", {})  # a result is frozen
        which = options.get("include_replies", False)
        if which not in kept:
            kept[which] = findings_of(self, **options)
        handed = copy(kept[which])
        object.__setattr__(handed, "tables", {name: table.copy() for name, table in handed.tables.items()})
        return handed

    def _read(self) -> Findings:
        """The report as it was saved, without figures; of a result that was not loaded, the report."""
        return self.__dict__.get("_saved") or self.to_findings()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_findings"}

    def statement(self) -> list[str]:
        """The verdict first, in sentences, from the numbers alone."""
        return list(self._read().statement)

    def plot(self, name: str | None = None) -> go.Figure:
        """A figure of the report, by its name; if none is given, the one that the class names, else the first.

        A copy of its own: to change it changes no report.

        Raises:
            KeyError: no such figure; lists those there are.
        """
        figures = self.to_findings().figures
        name = name or self._figure or next(iter(figures), "")
        if name not in figures:
            why = "" if figures else f" {self.statement()[0]}"
            raise KeyError(f"{type(self).__name__} has no figure {name!r}; it has {list(figures)}.{why}")
        return figures[name]

    @public
    def save_figure(self, path: str | Path, name: str | None = None) -> Path:
        """Write a figure of the report to ``path``, by its ending as SVG, PDF or PNG; returns it. ``name``: as of
        :meth:`plot`. Raises as :func:`interp.figures.save_figure`: PDF and PNG need kaleido and a browser.
        """
        return import_module("interp.figures.saving").save_figure(self.plot(name), path)

    @keeps_work
    def save(self, directory: str | Path, *, include_replies: bool = False, overwrite: bool = False) -> Path:
        """Write the report, and the value that :func:`interp.load_result` reads back, into a folder; returns it.

        Texts of requests and replies are kept out unless asked for. Raises ``FileExistsError`` for a folder that holds
        another run's report, unless ``overwrite``.

        Args:
            directory: made if need be.
            include_replies: keep texts of requests and replies, which are left out otherwise.
            overwrite: replace another run's report.
        """
        arrays: dict[str, np.ndarray] = {}
        value = packed(self, arrays, withhold=not include_replies)
        findings = self.to_findings(include_replies=include_replies)
        kept = computed(self, value["is"], arrays)
        value |= {"withheld": not include_replies} | ({"computed": kept} if kept else {})
        return findings.save(directory, overwrite=overwrite, result=value, raw=arrays)

    def cite(self) -> str:
        """What to cite for this result, as BibTeX: the sources of its method, and headscope."""
        return bibtex(self.provenance)

    def methods_paragraph(self) -> str:
        """A paragraph for the methods section of a paper, with this run's model, data, settings and versions."""
        return methods(self._read().title, self.provenance)

    @public
    def table(
        self, name: str | None = None, form: Literal["latex", "markdown"] = "latex", rows: int | None = None
    ) -> str:
        """A table of the report as LaTeX (booktabs) or Markdown, each value with its interval in one cell.

        Args:
            name: of the table, as the report calls it; by default the first.
            form: which of the two.
            rows: the first so many; by default all.

        Raises:
            KeyError: a table that the report does not have.
        """
        tables = self._read().tables
        name = name or next(iter(tables), "")
        if name not in tables:
            raise KeyError(f"{type(self).__name__} has no table {name!r}; it has {list(tables)}.")
        frame = tables[name] if rows is None else tables[name].head(rows)
        if form not in ("latex", "markdown"):
            raise ValueError(f"form={form!r}; expected 'latex' or 'markdown'.")
        return latex(frame, name) if form == "latex" else markdown(frame)

    def explore(self, model: Any = None, prompts: Any = ()) -> Any:
        """The heads of a ranking to look at: a widget in a notebook, a page by its ``save_explorer``
        (:class:`interp.explorer.Exploration`). With a ``model`` and ``prompts`` also what every head does in these.

        Raises:
            TypeError: a result that has no ranking of heads.
        """
        return import_module("interp.explorer.exploration").exploration_of(self, model, prompts)

    @public
    def save_explorer(self, path: str | Path, *, include_replies: bool = False) -> Path:
        """Write the explorer of this result's heads as one HTML file, ``path``, that opens from disk.

        ``include_replies``: show texts of requests, which are withheld otherwise. Raises as :meth:`explore`.
        """
        return self.explore().save_explorer(path, include_replies=include_replies)

    def __repr__(self) -> str:
        return f"{type(self).__name__}: {self.statement()[0]}"

    def _repr_html_(self) -> str:
        """The verdict, the first rows of the first table, and the main figure; of a result that was read from a folder
        without its texts, no figure."""
        findings = self._read()
        table = next(iter(findings.tables.values()), None)
        shown = "" if table is None else narrow(table, _SHOWN)
        return f"<p><b>{html.escape(findings.statement[0])}</b></p>{shown}{self._image(findings)}"

    def _image(self, findings: Findings) -> str:
        """The main figure; empty without one, and where it needs torch, which need not be there to read a result."""
        name = self._figure if self._figure in findings.figures else next(iter(findings.figures), "")
        try:
            return import_module("interp.figures.svg").image(findings.figures[name], name) if name else ""
        except (ImportError, ValueError):
            return ""


@public
def load_result(directory: str | Path) -> Any:
    """The result in a folder, whatever study it is of: what its ``save`` was given, less the texts that were withheld.

    ``directory``: where ``save`` wrote.

    Of findings that were saved by themselves, the findings. Raises ``FileNotFoundError`` for a folder without a
    finished report, ``ValueError`` (:class:`interp.records.records.RecordError`) for one that was changed or damaged.
    """
    directory = Path(directory)
    record = read_report_record(directory, RECORD, needs=(), kind="result")
    if "result" not in record:
        return load_findings(directory)
    arrays = saved_arrays(directory, record)
    with understood(directory / RECORD):
        result = unpacked(record["result"], arrays)
        own = {name: array for name, array in arrays.items() if name.startswith("result")}
        restore(result, record["result"].get("computed"), record["result"]["is"], own)
    if isinstance(result, Result) and record["result"].get("withheld"):
        vars(result)["_saved"] = findings_in(directory, record, arrays)
    return result

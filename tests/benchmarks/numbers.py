"""Where each number of a page comes from: the cell of a committed table that a comment below the sentence names.

    - The guard is right on 80 % [70, 87] of 84 harmful requests.
      <!-- from harmfulness/qwen2.5-coder-0.5b/guard.md > Accuracy on each group > probe > harmful / n harmful -->

A line of the comment is ``file > section > row > columns``; parts left out at its left are those of the line before.
Files are below tests/benchmarks. A row is named by as many of its cells as tell it from the others, left to right,
parted by " / " as columns are. A line of prose is named by words of it: ``file > section > "words"``. The cells stand
in the order of the numbers. What stands in a named row's own name needs no more, and a number that nobody measured (a
target, a setting) stands in a line ``given: ...``. A page that is to be read as text has its lines in an index in place
of comments: ``tests/benchmarks/README.sources``. ``python -m tests.benchmarks.numbers`` says which numbers have no
source, and where they might be.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import product
from pathlib import Path

from interp.statistics import bracketed

ROOT = Path(__file__).parents[2]
TABLES = ROOT / "tests" / "benchmarks"
COMMENT = re.compile(r"<!--\s*(?:from\s+|(?=given:))(.*?)-->", re.S)
SIGNED = r"[+−-]?\d+(?:,\d{3})+(?![\d])|[+−-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?"
ESTIMATE = re.compile(
    rf"(?P<value>{SIGNED})\s*(?P<share>%)?\s*(?:(?:points?\s*)?\[(?P<low>{SIGNED})%?, (?P<high>{SIGNED})%?\])?"
)
NAME = re.compile(r"(?<![\w.+−-])(?=[\w.-]*[^\W\d_])(?!\d+(?:\.\d+)?e[+-]?\d)[\w.-]*\d[\w.-]*")  # SmolLM2-135M, L16H7
NO_FINDINGS = ("sweep", "coverage", "edits", "agreement", "vision_agreement", "import_times")
COUNTED = r"\bn = \d|\bof \d|\d (questions|requests|pictures|prompts)"
NO_RESULT = (r"`[^`]*`", r"\]\([^)]*\)", r"arXiv \d{4}\.\d{5}", r"Python \d\.\d+", r"95 % interval", r"^\s*\d+\. ")


@dataclass(frozen=True)
class Number:
    """A number as it is written, with its interval where one follows."""

    text: str
    value: float
    decimals: int
    is_signed: bool
    is_share: bool
    ends: tuple[float, float] | None = None

    def rounds(self, other: Number, percent: bool = False) -> bool:
        """Whether this is ``other``, a number of a table, rounded. ``percent``: this one may count hundredths. A change
        may be told without its sign ("lower by 0.13")."""
        if self.ends is not None and other.ends is None:
            return False
        scales = (1.0, 0.01) if other.is_share else (1.0, 100.0) if percent else (1.0,)
        for scale, sign in product(scales, (1.0,) if self.is_signed else (1.0, -1.0)):
            half = 0.5 * 10.0**-self.decimals
            half += 0.5 * scale * 10.0**-other.decimals if scale * 10.0**-other.decimals < 10.0**-self.decimals else 0.0
            pairs = [(self.value, sign * scale * other.value)]
            if self.ends is not None:
                pairs += zip(self.ends, sorted(sign * scale * end for end in other.ends or ()), strict=True)
            if all(abs(written - there) <= half + 1e-9 for written, there in pairs):
                return True
        return False


@cache
def numbers_in(text: str) -> list[Number]:
    """The numbers of a text, an estimate with its interval as one."""
    found = []
    for match in ESTIMATE.finditer(text):
        value, low, high = (
            text and text.replace("−", "-").replace(",", "") for text in match.group("value", "low", "high")
        )
        decimals = len(value.split("e")[0].partition(".")[2]) - int(value.partition("e")[2] or 0)
        ends = None if low is None else (float(low), float(high))
        found.append(Number(match[0].strip(), float(value), decimals, value[0] in "+-", bool(match["share"]), ends))
    return found


@dataclass(frozen=True)
class Cell:
    """A named place of a table, or a line of prose: its numbers, and those of its own name."""

    name: str
    numbers: tuple[Number, ...]
    of_name: tuple[Number, ...]
    has_n: bool
    has_interval: bool


@dataclass
class Section:
    """What stands below one heading of a file of tables: tables (header and rows) and lines of prose."""

    title: str
    tables: list[tuple[list[str], list[list[str]]]] = field(default_factory=list)
    prose: list[str] = field(default_factory=list)


@cache
def sections(file: str) -> list[Section]:
    """The sections of a file below tests/benchmarks; what stands above the first heading is called as the file is."""
    found, open_table = [Section(Path(file).stem)], False
    for line in (TABLES / file).read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            found.append(Section(line.lstrip("# ").strip()))
        if line.startswith("|"):
            cells = [cell.replace("\\|", "|").strip() for cell in re.split(r"(?<!\\)\|", line.strip()[1:-1])]
            if not open_table:
                found[-1].tables.append((cells, []))
            elif not all(re.fullmatch(r":?-+:?", cell) for cell in cells):
                found[-1].tables[-1][1].append(cells)
        elif line.strip() and not line.startswith("#"):
            found[-1].prose.append(line.removeprefix("- "))
        open_table = line.startswith("|")
    return found


def fits(row: list[str], name: list[str]) -> bool:
    """Whether the parts of a row's name stand in the row, in this order."""
    cells = iter(row)
    return all(part in cells for part in name)


def cells_at(file: str, section: str, row: str, columns: str = "") -> list[Cell]:
    """The cells of one line of a comment; ValueError with what is there where nothing, or more than one row, fits."""
    if not (TABLES / file).is_file():
        raise ValueError(f"there is no tests/benchmarks/{file}")
    named = [found for found in sections(file) if found.title == section]
    if not named:
        raise ValueError(f"{file} has no section {section!r}, but {[s.title for s in sections(file)]}")
    said = [line for part in (*sections(file)[:3], *named) for line in part.prose]
    said_n = any(re.search(COUNTED, line) for line in said)
    if row.startswith('"'):
        lines = [line for found in named for line in found.prose if row.strip('"') in line]
        if len(lines) != 1:
            raise ValueError(f"{len(lines)} lines of {file}, {section!r}, hold {row}")
        return [Cell(row, tuple(numbers_in(plain(lines[0]))), (), said_n, "[" in lines[0])]
    parts = row.split(" / ")
    rows = [(header, cells) for found in named for header, body in found.tables for cells in body if fits(cells, parts)]
    wanted = columns.split(" / ")
    rows = [(header, cells) for header, cells in rows if set(wanted) <= set(header)] or rows
    if len(rows) != 1:
        raise ValueError(f"{len(rows)} rows of {file}, {section!r}, are named {row!r}")
    (header, cells), found = rows[0], []
    has_n = said_n or any(name == "n" or name.startswith("n ") for name in header)
    ends = [name for name in header if re.search(r"(\b|_)(low|high|p)$", name)]
    has_interval = bool(ends) or any(re.search(r"\[[^\]]*\d[^\]]*, [^\]]*\]", cell) for cell in cells)
    for column in wanted:
        if header.count(column) != 1:
            raise ValueError(f"{file}, {section!r}, has no column {column!r}, but {header}")
        of_name = tuple(n for text in (section, row, column) for n in numbers_in(plain(text)))
        held = tuple(numbers_in(with_interval(header, cells, header.index(column))))
        found.append(Cell(f"{row} > {column}", held, of_name, has_n, has_interval))
    return found


def with_interval(header: list[str], cells: list[str], at: int) -> str:
    """A cell with its interval, also where that has columns of its own to its right."""
    beside = [*header[at + 1 :], "", ""]
    if beside[0] == "95 % interval":
        return f"{cells[at]} {cells[at + 1]}"
    if beside[0].endswith("low") and beside[1].endswith("high"):
        return f"{cells[at]} {bracketed(cells[at + 1], cells[at + 2], str)}"
    return cells[at]


@dataclass(frozen=True)
class Block:
    """A paragraph, item or table of a page, with the lines of the comment that follows it."""

    page: str
    heading: str
    text: str
    sources: tuple[str, ...]

    def sentences(self) -> Iterator[tuple[str, list[Number]]]:
        """Each sentence with its numbers: no names of models and heads, no code, links, versions."""
        ends = r"\n" if self.text.startswith("|") else r"(?<=[.:;?!])\s+(?=[A-Z*\[(\"])"
        for sentence in re.split(ends, re.sub(r"\*\*", "", self.text)):
            if found := numbers_in(plain(sentence)):
                yield sentence, found


def plain(text: str) -> str:
    """A text without what has digits and is no number: code, links, versions, names."""
    for pattern in NO_RESULT:
        text = re.sub(pattern, " ", text, flags=re.M)
    return NAME.sub(" ", text)


def blocks(page: Path) -> list[Block]:
    """The blocks of a page that are no code: paragraphs, items of lists, tables, each with the comment that follows."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    found, heading = [], ""
    for part in re.split(r"\n\s*\n|\n(?=- |\d+\. |#)", text):
        sources = [line.strip() for comment in COMMENT.findall(part) for line in comment.splitlines() if line.strip()]
        words = re.sub(r"<!--.*?-->|^\d+\. ", "", part, flags=re.S)
        if words.startswith("#"):
            heading = words.strip("# \n")
        joined = words.strip() if "\n|" in f"\n{words}" else " ".join(words.split())
        if not joined and sources and found:  # a comment that stands alone belongs to what is above it
            found[-1] = replace(found[-1], sources=(*found[-1].sources, *sources))
        elif joined:
            found.append(Block(page.relative_to(ROOT).as_posix(), heading, joined, tuple(sources)))
    for words, sources in indexed(page).items():
        at = [i for i, block in enumerate(found) if block.text.startswith(words)]
        if len(at) != 1:
            raise ValueError(f"{len(at)} blocks of {page.name} begin with {words!r}, which its index names")
        found[at[0]] = replace(found[at[0]], sources=sources)
    return found


def indexed(page: Path) -> dict[str, tuple[str, ...]]:
    """The lines of a page's index, by the words that a block begins with; none without an index."""
    index = TABLES / f"{page.stem}.sources"
    if page.parent != ROOT or not index.is_file():
        return {}
    parts = [part.splitlines() for part in index.read_text(encoding="utf-8").split("\n\n") if part[:1] != "#"]
    return {words: tuple(lines) for words, *lines in parts}


def cells_of(block: Block) -> tuple[list[Cell], list[Number]]:
    """The cells that a block's comment names, and the numbers that are given there."""
    place, cells, given = ["", "", "", ""], [], []
    for line in block.sources:
        if line.startswith("given:"):
            given += numbers_in(plain(line.removeprefix("given:")))
            continue
        parts = [part.strip() for part in line.split(" > ")]
        if parts[-1].startswith('"'):
            parts.append("")
        place = place[: 4 - len(parts)] + parts
        cells += cells_at(*place)
    return cells, given


def faults(block: Block, needs_evidence: bool) -> list[str]:
    """What is wrong with a block's numbers, in sentences that say what to write."""
    try:
        cells, given = cells_of(block)
    except ValueError as wrong:
        return [f"{block.page}, {block.text[:80]!r}: {wrong}"]
    used, said = 0, []
    named = [*given, *(number for cell in cells for number in cell.of_name)]
    for sentence, numbers in block.sentences():
        percent = bool(re.search(r"%|\bpoints?\b", sentence))
        for number in numbers:
            holding = [any(number.rounds(other, percent) for other in cell.numbers) for cell in cells]
            if any(holding[used : used + 1]):
                used += 1
            elif any(holding[:used]) or any(number.rounds(other) for other in named):
                continue
            elif any(holding):
                cell = cells[used]
                return [
                    f"{block.page}, {sentence!r}: {number.text} comes before {cell.name!r}, "
                    f"{[n.text for n in cell.numbers][:4]}; name cells in the order of the numbers"
                ]
            else:
                said.append(
                    f"{block.page}, {sentence!r}: {number.text} has no source; write its cell below the sentence: "
                    f"{suggestion(number, percent, block)}"
                )
    if cells[used:] and not said:
        said.append(f"{block.page}, {block.text[:80]!r}: no number of it is in {cells[used].name!r}; take that out")
    if needs_evidence and cells:
        if not any(cell.has_n for cell in cells):
            said.append(f"{block.page}, {block.text[:80]!r}: none of its tables has n")
        if not any(cell.has_interval for cell in cells):
            said.append(f"{block.page}, {block.text[:80]!r}: none of its tables has an interval, or p where it counts")
    return said


def suggestion(number: Number, percent: bool, block: Block) -> str:
    """Comments that would do, from tables that the block names, then that its page names; the form where none does."""
    here, page = " ".join(block.sources), (ROOT / block.page).read_text(encoding="utf-8")
    files = [p.relative_to(TABLES).as_posix() for p in sorted(TABLES.rglob("*.md")) if p.stem not in NO_FINDINGS]
    files.sort(key=lambda file: (file not in here, file.split("/")[0] not in here, file not in page))
    found = []
    is_telling = number.ends is not None or len(re.sub(r"\D", "", number.text)) > 2  # others stand in many cells
    for file in files if is_telling else ():
        for section in sections(file):
            for header, body in section.tables:
                for row in body:
                    for column, cell in zip(header, row, strict=False):
                        if any(number.rounds(other, percent) for other in numbers_in(cell)):
                            found.append(f"{file} > {section.title} > {short_name(row, body)} > {column}")
        if len(found) > 2:
            break
    return " or ".join(f"<!-- from {place} -->" for place in found[:3] or ["FILE > SECTION > ROW > COLUMN"])


def short_name(row: list[str], body: list[list[str]]) -> str:
    """As few of a row's first cells as tell it from the table's other rows."""
    for length in range(1, len(row)):
        if sum(fits(other, row[:length]) for other in body) == 1:
            return " / ".join(row[:length])
    return " / ".join(row)


def pages() -> list[Path]:
    """README and the pages of results."""
    return [ROOT / "README.md", *sorted((ROOT / "docs" / "results").glob("*.md"))]


def page_faults(page: Path) -> list[str]:
    """All that is wrong with a page's numbers; n and intervals are asked of findings, not of what a run costs."""
    found = []
    for block in blocks(page):
        is_finding = block.heading == "What it found" if page.name == "README.md" else not block.text.startswith("**")
        found += faults(block, needs_evidence=is_finding)
    return found


def main() -> None:
    wanted = [Path(name).resolve() for name in sys.argv[1:]] or pages()
    found = [fault for page in wanted for fault in page_faults(page)]
    print("\n\n".join(found) or "Every number has its source.")


if __name__ == "__main__":
    main()

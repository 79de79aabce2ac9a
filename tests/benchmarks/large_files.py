"""What a sample of 500 from a file of a million rows costs, each kind of file in a process of its own: large_files.md.

python -m tests.benchmarks.large_files [ROWS]
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TABLE = Path(__file__).with_name("large_files.md")
LIMIT = 500


def made(path: Path, n: int) -> None:
    """Rows of about 150 bytes: a question, its answer, one of twenty domains."""
    words = "Is the {} of the city of number {} older than the one that was built there in the year {}?"
    things = ("bridge", "station", "museum", "harbour", "library")
    rows = (
        (f"row-{i}", words.format(things[i % 5], i, 1000 + i % 900), "yes" if i % 2 else "no", f"domain {i % 20}")
        for i in range(n)
    )
    names = ("id", "question", "answer", "domain")
    if path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        schema = pyarrow.schema([(name, pyarrow.string()) for name in names])
        with pyarrow.parquet.ParquetWriter(path, schema) as writer:
            while batch := [row for _, row in zip(range(50_000), rows, strict=False)]:
                columns = [list(column) for column in zip(*batch, strict=True)]
                writer.write_table(pyarrow.Table.from_arrays([pyarrow.array(c) for c in columns], schema=schema))
        return
    with path.open("w", encoding="utf-8") as file:
        if path.suffix == ".csv":
            file.write(",".join(names) + "\n")
            file.writelines(",".join(row) + "\n" for row in rows)
        else:
            is_array = path.suffix == ".json"
            for i, row in enumerate(rows):
                before = "" if not is_array else "[" if i == 0 else ","
                file.write(before + json.dumps(dict(zip(names, row, strict=True))) + "\n")
            file.write("]" if is_array else "")


def called(function: str, path: Path, *more: int) -> str:
    """What a function of this module prints in a process of its own. Linux only."""
    code = f"from tests.benchmarks.large_files import Path, {function} as f; f(Path({str(path)!r}), *{more!r})"
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def peak_mib() -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def read(path: Path) -> None:
    from probes.questions import load_questions

    load_questions(limit=2)
    before, start = peak_mib(), time.process_time()
    found = load_questions(path, limit=LIMIT)
    assert len(found) == LIMIT, len(found)
    print(json.dumps({"before": before, "peak": peak_mib(), "seconds": time.process_time() - start}))


def main(n: int) -> None:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for ending in (".jsonl", ".csv", ".json", ".parquet"):
            path = Path(folder) / f"rows{ending}"
            made(path, n)
            code = "import sys; from tests.benchmarks.large_files import read; read(sys.argv[1])"
            told = subprocess.run([sys.executable, "-c", code, path], check=True, capture_output=True, text=True)
            cost, size = json.loads(told.stdout), path.stat().st_size / 1e6
            rows.append(
                f"| {ending} | {size:.0f} | {cost['peak']:.0f} | {cost['before']:.0f} | {cost['seconds']:.0f} |"
            )
            print(rows[-1], flush=True)
            path.unlink()
    TABLE.write_text(
        f"# A sample of {LIMIT} from a file of {n:,} rows\n\n"
        "Balanced, in proportion to twenty domains. Peak: of the whole process (resident), beside what it had after "
        "its imports and a sample of the built-in questions. From `python -m tests.benchmarks.large_files`.\n\n"
        "| file | MB | peak MiB | MiB before | CPU s |\n|---|---:|---:|---:|---:|\n" + "\n".join(rows) + "\n",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)

"""pyright on both packages, and on the README's first block as a user's file beside the *installed* package.

`python -m tests.typecheck`, as `make lint` does. The second shows that the installation is one that editors can follow:
an unknown `interp` would be an error there.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def first_block(readme: Path = ROOT / "README.md") -> str:
    """The first Python of the README."""
    found = re.search(r"^```python\n(.*?)^```", readme.read_text(encoding="utf-8"), re.M | re.S)
    assert found is not None, "README.md has no Python"
    return found[1]


def pyright(*arguments: str, folder: Path) -> int:
    """pyright's exit status in a folder, with this environment's packages."""
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, *arguments]
    return subprocess.run(command, cwd=folder).returncode


def main() -> int:
    failed = pyright(folder=ROOT)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "readme.py").write_text(first_block(), encoding="utf-8")
        return pyright("readme.py", folder=Path(folder)) or failed


if __name__ == "__main__":
    sys.exit(main())

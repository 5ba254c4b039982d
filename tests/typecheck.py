"""mypy over everything, with the import names that the package-dir mapping gives the folders.

mypy does not know that `sinks/` is `cdcflow_sinks` and `sql/` is `cdcflow.sql` (setup.py maps them), so
it is shown a tree of links in which they are.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent


def main() -> int:
    with tempfile.TemporaryDirectory() as directory:
        tree = Path(directory)
        package = tree / "cdcflow"
        package.mkdir()
        for entry in (ROOT / "src" / "cdcflow").iterdir():
            (package / entry.name).symlink_to(entry)
        (package / "sql").symlink_to(ROOT / "sql")
        (tree / "cdcflow_sinks").symlink_to(ROOT / "sinks")
        for name in ("tests", "bench", "setup.py"):
            (tree / name).symlink_to(ROOT / name)
        command = [
            sys.executable,
            "-m",
            "mypy",
            f"--config-file={ROOT / 'pyproject.toml'}",
            f"--cache-dir={ROOT / '.mypy_cache'}",
            # Test modules are named from `tests/` on, as pytest's `pythonpath` has it.
            "--explicit-package-bases",
            "cdcflow",
            "cdcflow_sinks",
            "tests",
            "bench",
            "setup.py",
        ]
        environment = {**os.environ, "MYPYPATH": f"{tree}:{tree / 'tests'}"}
        return subprocess.run(command, cwd=tree, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())

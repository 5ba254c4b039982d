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
        examples = _examples(tree)
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
            *examples,
        ]
        environment = {**os.environ, "MYPYPATH": f"{tree}:{tree / 'tests'}"}
        return subprocess.run(command, cwd=tree, env=environment, check=False).returncode


def _examples(tree: Path) -> list[str]:
    """The packages in `examples/sinks/` with their tests, which are installed nowhere."""
    found = []
    for folder in sorted((ROOT / "examples" / "sinks").iterdir()):
        for entry in (*folder.glob("src/*/__init__.py"), *folder.glob("tests/*.py")):
            source = entry.parent if entry.name == "__init__.py" else entry
            (tree / source.name).symlink_to(source)
            found.append(source.name)
    return found


if __name__ == "__main__":
    sys.exit(main())

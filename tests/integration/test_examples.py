"""The packages under `examples/`, each installed as its users install it, and tested by its own tests."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*command: str | Path, **environment: str) -> None:
    done = subprocess.run(
        list(map(str, command)),
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["slack"])
def test_a_third_partys_sink_passes_the_conformance_suite(name: str, tmp_path: Path) -> None:
    # From a copy: a build leaves things in the tree that it builds.
    tree = tmp_path / name
    subprocess.run(["cp", "-r", str(ROOT / "examples" / "sinks" / name), str(tree)], check=True)
    installed = tmp_path / "installed"
    # Without isolation and dependencies: what it needs is installed here, and a test downloads nothing.
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation")
    run(*pip, "--target", installed, tree)
    run(
        sys.executable,
        "-m",
        "pytest",
        "-c",
        tree / "pyproject.toml",
        tree / "tests",
        PYTHONPATH=str(installed),
    )

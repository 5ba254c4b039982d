"""The wheel works in an empty virtual environment in another folder, with the kernel and without it."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ("src", "sinks", "sql", "pyproject.toml", "setup.py", "README.md", "LICENSE")

LOAD = """
import json
from cdcflow.sink import registry
import cdcflow, cdcflow.sql, cdcflow_sinks
print(json.dumps({
    "files": [cdcflow.__file__, cdcflow.sql.__file__, cdcflow_sinks.__file__],
    "sinks": {name: registry.load(name).name for name in registry.names()},
    "sql": len(cdcflow.sql.load("published_tables")),
}))
"""


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("ext", ["yes", "no"])
def test_the_wheel_works_in_an_empty_environment_elsewhere(tmp_path: Path, ext: str) -> None:
    if ext == "yes" and not shutil.which("cc") and not shutil.which("gcc"):
        pytest.skip("no compiler here")
    # From a copy: a build leaves things in the tree that it builds.
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name,
                tree / name,
                ignore=shutil.ignore_patterns("*.so", "*.c", "*.egg-info", "__pycache__"),
            )
        else:
            shutil.copy(ROOT / name, tree / name)
    # Without isolation: what builds is installed here, and a test downloads nothing.
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation"]
    run(*build, "--outdir", tmp_path / "dist", tree, cwd=tmp_path, CDCFLOW_BUILD_EXT=ext)
    [wheel] = (tmp_path / "dist").glob("*.whl")
    assert ("none-any" in wheel.name) == (ext == "no")

    elsewhere = tmp_path / "elsewhere"
    venv.create(elsewhere / "venv", with_pip=False)
    python = elsewhere / "venv" / "bin" / "python"
    site = Path(
        run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=elsewhere).strip()
    )
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
    ]
    run(*pip, wheel, cwd=elsewhere)
    # Other people's packages are the ones installed here. A path in a .pth brings no .pth of its own, so
    # not the editable cdcflow.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))

    loaded = json.loads(run(python, "-c", LOAD, cwd=elsewhere))
    assert all(str(site) in file for file in loaded["files"]), loaded["files"]
    assert set(loaded["sinks"]) >= {"duckdb", "webhook", "jsonl", "null"}
    assert loaded["sql"] > 100
    program = elsewhere / "venv" / "bin" / "cdcflow"
    assert "teardown" in run(program, "--help", cwd=elsewhere)
    version = json.loads(run(program, "version", "--json", cwd=elsewhere))
    assert version["decoder"] == ("compiled" if ext == "yes" else "pure Python")

    (elsewhere / "cdcflow.yaml").write_text(
        "source: {dsn: 'postgresql://nobody@127.0.0.1:1/nowhere', tables: [public.*]}\n"
        "sinks: {files: {type: jsonl, path: events}}\n"
        "flows: [{name: files, from: [public.*], to: files}]\n"
    )
    check = subprocess.run([program, "check"], cwd=elsewhere, capture_output=True, text=True, check=False)
    assert check.returncode == 3
    assert "nothing listens" in check.stdout + check.stderr

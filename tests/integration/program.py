"""The program itself, as a person runs it: a configuration, `cdcflow run` as a process, and its commands."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cdcflow.engine import control
from cdcflow.errors import EnvironmentFault
from cdcflow.testing.waiting import eventually

PROGRAM = [sys.executable, "-c", "from cdcflow.cli.main import main; main()"]


def write(directory: Path, dsn: str, name: str = "cdcflow", **changed: str) -> Path:
    """A configuration with one flow to files, its lines replaced or added to by `changed`."""
    lines = {
        "source": f"{{dsn: '{dsn}', tables: [public.*], publication: {name}, slot: {name}}}",
        "sinks": "{files: {type: jsonl, path: events}}",
        "flows": "[{name: files, from: [public.*], to: files}]",
        **changed,
    }
    path = directory / "cdcflow.yaml"
    path.write_text("".join(f"{key}: {value}\n" for key, value in lines.items()))
    return path


def cdcflow(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [*PROGRAM, *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=120, stdin=subprocess.DEVNULL, **options
    )


@contextmanager
def running(config: Path, state: Path) -> Iterator[subprocess.Popen[str]]:
    with (config.parent / "engine.log").open("a") as log:
        process = subprocess.Popen(
            [*PROGRAM, "-c", str(config), "run"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, text=True
        )
    try:

        def streaming() -> bool:
            try:
                status = control.status(state)
            except EnvironmentFault:  # it is busy with its start
                return False
            return status is not None and status["capture"]["state"] == "streaming"

        eventually(streaming, timeout=60, what="the engine's start")
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


@contextmanager
def mounted(directory: Path, options: str) -> Iterator[Path]:
    """A tmpfs of its own, which only root can make."""
    directory.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    command = ["mount", "-t", "tmpfs", "-o", options, "cdcflow-test", str(directory)]
    done = subprocess.run(command, check=False, capture_output=True)
    if done.returncode:
        pytest.skip("this machine lets nobody mount a file system")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)

"""What `cdcflow check` says about a warehouse before anything is written to it."""

import os
from collections.abc import Sequence

import duckdb

from cdcflow.sink import Finding
from cdcflow_sinks.duckdb.failures import is_locked
from cdcflow_sinks.duckdb.settings import DuckDBSettings


def probe(settings: DuckDBSettings) -> Sequence[Finding]:
    """Whether the file can be opened, or made where it is missing. Writes nothing."""
    path = settings.path.resolve()
    subject = f"warehouse {path}"
    if not path.parent.is_dir():
        return [Finding("error", subject, f"the directory {path.parent} does not exist", "create it")]
    if not os.access(path.parent, os.W_OK):
        return [
            Finding(
                "error", subject, f"the directory {path.parent} is not writable", "grant write access to it"
            )
        ]
    if not path.exists():
        return [Finding("ok", subject, f"will be made; DuckDB {duckdb.__version__}")]
    if not os.access(path, os.W_OK):
        return [Finding("error", subject, "the file is not writable", "grant write access to it")]
    try:
        duckdb.connect(str(path), read_only=True).close()
    except duckdb.Error as error:
        text = str(error).partition("\n")[0]
        if is_locked(error):
            return [Finding("warning", subject, f"another process has it open: {text}", "close it there")]
        if isinstance(error, duckdb.ConnectionException):
            return [Finding("ok", subject, "open in this process already")]
        return [Finding("error", subject, text, "move the file away, or name another `path`")]
    return [Finding("ok", subject, f"can be opened; DuckDB {duckdb.__version__}")]

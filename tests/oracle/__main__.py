"""Runs the oracle: `make oracle ARGS="--values 200000 --seed 7"`. Exits with 0 if nothing differs."""

import argparse
import secrets
import sys
import tempfile
import time
from pathlib import Path

from cdcflow.testing.binaries import server_account
from cdcflow.testing.database import Database
from cdcflow.testing.postgres import Server, find_binaries
from oracle.check import check


def main() -> int:
    parser = argparse.ArgumentParser(prog="make oracle", description=__doc__)
    parser.add_argument("--values", type=int, default=20_000, help="random values (default 20,000)")
    parser.add_argument("--seed", type=int, help="replay the values of an earlier run")
    parser.add_argument("--pg", type=int, help="major version (default: every one found)")
    options = parser.parse_args()
    seed = secrets.randbits(32) if options.seed is None else options.seed
    found = {binaries.version: binaries for binaries in reversed(find_binaries())}
    differences = 0
    for version in [options.pg] if options.pg else sorted(found):
        with tempfile.TemporaryDirectory(prefix="cdcflow-oracle-") as folder:
            if server_account().uid is not None:
                Path(folder).chmod(0o711)
            server = Server(found[version], Path(folder) / "server")
            server.init()
            server.start()
            started = time.monotonic()
            database = Database(server)
            try:
                report = check(database, Path(folder), values=options.values, seed=seed)
            finally:
                database.drop()
                server.destroy()
            print(f"PostgreSQL {version}, {time.monotonic() - started:.0f} s: {report}", flush=True)
            differences += len(report.differences)
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())

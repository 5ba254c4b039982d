"""Runs the differential test: `make differential ARGS="--expressions 20000 --rows 50 --seed 7"`. Exits
with 0 if nothing differs and everything supported was reached."""

import argparse
import secrets
import sys
import tempfile
import time
from pathlib import Path

from cdcflow.testing.binaries import server_account
from cdcflow.testing.postgres import Server, find_binaries
from differential.check import check
from differential.database import utf8_database


def main() -> int:
    parser = argparse.ArgumentParser(prog="make differential", description=__doc__)
    parser.add_argument("--expressions", type=int, default=2_000, help="how many (default 2,000)")
    parser.add_argument("--rows", type=int, default=50, help="rows that each is evaluated over (default 50)")
    parser.add_argument("--seed", type=int, help="replay an earlier run")
    parser.add_argument("--pg", type=int, help="major version (default: the newest found)")
    parser.add_argument("--refusals", action="store_true", help="say what was refused, and how often")
    options = parser.parse_args()
    seed = secrets.randbits(32) if options.seed is None else options.seed
    found = {binaries.version: binaries for binaries in reversed(find_binaries())}
    version = options.pg or max(found)
    with tempfile.TemporaryDirectory(prefix="cdcflow-differential-") as folder:
        if server_account().uid is not None:
            Path(folder).chmod(0o711)
        server = Server(found[version], Path(folder) / "server")
        server.init()
        server.start()
        started = time.monotonic()
        try:
            with utf8_database(server) as connection:
                report = check(connection, expressions=options.expressions, rows_each=options.rows, seed=seed)
        finally:
            server.destroy()
        print(f"PostgreSQL {version}, {time.monotonic() - started:.0f} s: {report}", flush=True)
        if options.refusals:
            for message, count in report.refused.most_common(60):
                print(f"  {count:5}  {message}")
            for message, count in report.rows_refused.most_common(20):
                print(f"  {count:5}  rows: {message}")
    return 1 if report.differences or report.unreached else 0


if __name__ == "__main__":
    sys.exit(main())

"""Hours of what the tests do in a minute: `make stress ARGS="--scenario ddl --seconds 300 --seed N"`.

Clients do random work while capture, workers, supervisor and server are killed every few seconds. Then every
table of the source, the warehouse, the webhook, the files and the journal are compared, and the journal is
replayed into a second warehouse, in other batches, which must come to the same. Exits with 0 only if all of
it is equal; the seed that it prints repeats the choices.

dml: rows of all kinds of tables. ddl: the same, while tables change their shapes. failover: the same as dml,
while the primary dies and its standby is promoted. backfill: a table of --rows rows is read while it changes.
first-load: the same at the first start, as fast as it can. outage: a webhook is down while --rows changes
come (360000: an hour of 100 a second), without kills; the others must not notice, and everything must come
afterwards.
"""

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from cdcflow.testing.postgres import Server, find_binaries
from stress.scenarios import SCENARIOS, Run


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="make stress", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenario", choices=SCENARIOS, default="dml")
    parser.add_argument(
        "--rows",
        type=int,
        default=1_000_000,
        help="of the scenarios backfill and first-load; changes of the scenario outage",
    )
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--pg", type=int, metavar="VERSION", help="a PostgreSQL found here (default: newest)")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    binaries = next((b for b in find_binaries() if options.pg in (None, b.version)), None)
    if binaries is None:
        print(f"no PostgreSQL {options.pg or ''} was found", file=sys.stderr)
        return 3
    directory = Path(tempfile.mkdtemp(prefix="cdcflow-stress-"))
    directory.chmod(0o711)
    servers: list[Server] = []

    def make(**settings: Any) -> Server:
        server = Server(binaries, directory / f"postgres{len(servers)}", **settings)
        servers.append(server)
        server.init()
        server.start()
        return server

    run = Run(directory, make, options.seed, options.seconds, options.clients, rows=options.rows)
    try:
        SCENARIOS[options.scenario](run)
    except BaseException:
        again = f"--scenario {options.scenario} --seconds {options.seconds:g} --seed {options.seed}"
        print(f"failed: {again}; what there is to look at is in {directory}", file=sys.stderr)
        for server in servers:
            server.stop("immediate")
        raise
    for server in servers:
        server.destroy()
    shutil.rmtree(directory)
    print("everything is equal")
    return 0


if __name__ == "__main__":
    sys.exit(main())

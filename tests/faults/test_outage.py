"""A destination that is down, in each way, while the source goes on.
`make stress ARGS="--scenario outage"` does it with the changes of an hour."""

from pathlib import Path

from conftest import OwnServer
from faults.outage import outage


def test_an_outage_costs_nobody_else_anything_and_everything_comes_afterwards(
    own_newest_server: OwnServer, tmp_path: Path
) -> None:
    outage(tmp_path, own_newest_server(), changes=3_000, together=False, hurry=True)

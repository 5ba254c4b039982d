"""The stress scenarios `ddl` and `failover`, short and with a fixed seed: `make stress` goes on with them."""

from pathlib import Path

import pytest

from conftest import OwnServer
from stress import scenarios
from stress.scenarios import Run

#: Seconds of load and kills.
SHORT = 6.0


def test_tables_that_change_their_shapes_are_followed_whatever_is_killed(
    own_server: OwnServer, postgres_version: int | str, tmp_path: Path
) -> None:
    if not isinstance(postgres_version, int) or postgres_version < 17:
        pytest.skip("tests/integration/test_schema_change.py is for every version; kills are the same on all")
    scenarios.ddl(Run(tmp_path, own_server, seed=11, seconds=SHORT, clients=2))


def test_a_standby_that_is_promoted_under_load_is_followed(
    own_server: OwnServer, postgres_version: int | str, tmp_path: Path
) -> None:
    if not isinstance(postgres_version, int) or postgres_version < 17:
        pytest.skip("failover slots exist from 17 on")
    scenarios.failover(Run(tmp_path, own_server, seed=12, seconds=SHORT, clients=2))

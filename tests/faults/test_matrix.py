"""A small part of the fault matrix (`make faults` is all of it)."""

from pathlib import Path

import pytest

from faults.crm import HubSpotAssociations
from faults.matrix import run_cell
from faults.subjects import DuckDB, Subject, Webhook, WebhookBatches


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (Webhook, "reject"),
        (WebhookBatches, "fail after write"),
        (Webhook, "unauthorized"),
        (DuckDB, "reject"),
        (HubSpotAssociations, "reset after write"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_whatever_fails_and_dies_the_destination_ends_right(
    make: type[Subject], fault: str | None, tmp_path: Path
) -> None:
    cell = run_cell(make, fault, tmp_path, seed=7, kills=2)
    assert not cell.wrong
    assert cell.kills == 2

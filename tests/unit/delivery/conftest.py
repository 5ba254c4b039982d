"""A journal to deliver from, and a checkpoint store."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cdcflow.delivery import CheckpointStore
from cdcflow.testing.scripted import JournalSource


@pytest.fixture
def source(tmp_path: Path) -> Iterator[JournalSource]:
    made = JournalSource(tmp_path / "journal")
    yield made
    made.writer.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[CheckpointStore]:
    with CheckpointStore(tmp_path / "cdcflow.db") as made:
        yield made

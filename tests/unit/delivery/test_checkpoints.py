import os
import sqlite3
import stat
from pathlib import Path

import pytest

from cdcflow.delivery import CheckpointStore
from cdcflow.errors import EnvironmentFault
from cdcflow.model import ORIGIN, Position


def test_a_checkpoint_is_there_for_the_next_process(tmp_path: Path) -> None:
    with CheckpointStore(tmp_path / "cdcflow.db") as store:
        store.save("hook", 17, Position(4096, 2))
    with CheckpointStore(tmp_path / "cdcflow.db") as store:
        found = store.get("hook")
        assert found is not None
        assert (found.offset, found.position) == (17, Position(4096, 2))
        assert found.updated > 0
        assert store.get("other") is None


def test_a_checkpoint_never_goes_back(store: CheckpointStore) -> None:
    store.save("hook", 17, Position(4096, 2))
    store.save("hook", 16, Position(4096, 1))
    found = store.get("hook")
    assert found is not None
    assert (found.offset, found.position) == (17, Position(4096, 2))


def test_two_stores_on_one_file_see_each_other(tmp_path: Path, store: CheckpointStore) -> None:
    with CheckpointStore(tmp_path / "cdcflow.db") as other:
        store.save("a", 1)
        other.save("b", 2)
        seen = [store.get("b"), other.get("a")]
    assert [c.offset for c in seen if c] == [2, 1]
    assert all(c.position == ORIGIN for c in seen if c)


def test_the_file_is_for_its_owner_alone(tmp_path: Path, store: CheckpointStore) -> None:
    store.save("hook", 1)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.glob("cdcflow.db*")}
    assert set(modes.values()) == {0o600}
    with sqlite3.connect(tmp_path / "cdcflow.db") as plain:
        assert plain.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    plain.close()


def test_a_file_that_is_no_database_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    path = tmp_path / "cdcflow.db"
    path.write_bytes(b"not a database, " * 512)
    with pytest.raises(EnvironmentFault, match="checkpoint store") as caught:
        CheckpointStore(path)
    assert caught.value.hint


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(EnvironmentFault, match="opened"):
        CheckpointStore(tmp_path / "cdcflow.db")


def test_a_missing_folder_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match="opened") as caught:
        CheckpointStore(tmp_path / "missing" / "cdcflow.db")
    assert "writable" in caught.value.hint

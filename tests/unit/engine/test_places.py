import os
import stat
import threading
from pathlib import Path

import pytest

from cdcflow.engine.places import Places, take_lock
from cdcflow.errors import EnvironmentFault
from cdcflow.lock import FileLock


def lock(path: Path, timeout: float = 0.0) -> FileLock:
    return take_lock(path, what="another engine runs here", hint="stop it", timeout=timeout)


def test_the_folders_are_for_their_owner_alone(tmp_path: Path) -> None:
    places = Places(tmp_path / "deep" / "state")
    places.make()
    places.make()
    assert [stat.S_IMODE(p.stat().st_mode) for p in (places.state, places.run)] == [0o700, 0o700]


def test_a_state_folder_that_cannot_be_made_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EnvironmentFault, match="cannot be made") as caught:
        Places(tmp_path / "file" / "state").make()
    assert "engine.state" in caught.value.hint


def test_a_held_lock_names_its_holder(tmp_path: Path) -> None:
    first = lock(tmp_path / "engine.lock")
    with pytest.raises(EnvironmentFault, match=f"another engine runs here \\(process {os.getpid()} holds"):
        lock(tmp_path / "engine.lock")
    first.release()
    lock(tmp_path / "engine.lock").release()


def test_a_lock_that_is_let_go_in_time_is_waited_for(tmp_path: Path) -> None:
    first = lock(tmp_path / "engine.lock")
    releasing = threading.Timer(0.1, first.release)
    releasing.start()
    lock(tmp_path / "engine.lock", timeout=20.0).release()
    releasing.join()


def test_a_lock_does_not_pass_on_to_a_program_that_is_started(tmp_path: Path) -> None:
    held = lock(tmp_path / "engine.lock")
    assert not os.get_inheritable(held._fd)
    held.release()

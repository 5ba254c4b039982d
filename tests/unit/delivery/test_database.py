import subprocess
import sys
from pathlib import Path

from cdcflow.delivery.database import Database

ADD = "INSERT INTO in_flight VALUES (?, 0, 0)"
COUNT = "SELECT count(*) FROM in_flight"

LOOK = """
import sys
from pathlib import Path
from cdcflow.delivery.database import Database
with Database(Path(sys.argv[1]), "in_flight_table") as database:
    print(database.one("SELECT count(*) FROM in_flight")[0])
"""


def seen_by_another_process(path: Path) -> int:
    found = subprocess.run([sys.executable, "-c", LOOK, str(path)], capture_output=True, check=True)
    return int(found.stdout)


def test_several_connections_of_a_process_and_a_visitor_see_the_same(tmp_path: Path) -> None:
    # A second connection that opens and closes the file itself would take the first one's locks away: then
    # the visitor, which thinks that it is alone, removes the log that both write to.
    path = tmp_path / "cdcflow.db"
    with Database(path, "in_flight_table") as first:
        first.write(ADD, "a")
        with Database(path, "in_flight_table") as second:
            assert seen_by_another_process(path) == 1
            first.write(ADD, "b")
            second.write(ADD, "c")
            assert seen_by_another_process(path) == 3
    assert seen_by_another_process(path) == 3
    assert path.stat().st_mode & 0o777 == 0o600

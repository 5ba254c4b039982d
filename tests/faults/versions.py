"""Whether a row of `goods` ever went back to an older state: in the journal, in the files of jsonl, at a
webhook, and in the warehouse, which is asked while it fills.

DuckDB does the judging, so that millions of changes take seconds.
"""

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from cdcflow.engine import control
from cdcflow.errors import CdcflowError
from cdcflow.journal import Reader
from cdcflow.model import Op
from faults.project import Project

#: Rows that came before, of the same key, with a newer version. In the order of `place`.
_BACK = """
    WITH told AS (
        SELECT id, version, max(version) OVER (
            PARTITION BY id ORDER BY place ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before
        FROM seen WHERE version IS NOT NULL
    )
    SELECT id, before, version FROM told WHERE version < before ORDER BY id LIMIT 5
"""

_EVENT = "STRUCT(id BIGINT, version BIGINT)"
#: What a version of a row is in each event, in the order of the files. Deletes have none.
_FILES = f"""
    CREATE TABLE seen AS
    SELECT event, row_number() OVER () AS place, new.id AS id, new.version AS version, old.id AS before
    FROM (
        SELECT id AS event, new, old FROM read_json(
            ?, format = 'newline_delimited', columns = {{
                "id": 'VARCHAR', "table": 'VARCHAR', "new": '{_EVENT}', "old": '{_EVENT}'}})
        WHERE "table" = 'goods'
    )
"""
#: The last version of each row that is left, as whoever follows the events from their beginning has it.
_LEFT = """
    WITH touched AS (
        SELECT place, id, version FROM seen WHERE id IS NOT NULL
        UNION ALL
        SELECT place - 0.5, before, NULL FROM seen WHERE before IS DISTINCT FROM id AND before IS NOT NULL
    ), last AS (
        SELECT id, arg_max_null(version, place) AS version FROM touched GROUP BY id
    )
    SELECT count(*), sum(id), sum(version), sum(id::HUGEINT * version) FROM last WHERE version IS NOT NULL
"""
_LEFT_AT_SOURCE = "SELECT count(*), sum(id), sum(version), sum(id::numeric * version) FROM goods"


def assert_journal_never_goes_back(journal: Path) -> tuple[int, int]:
    """Gives how many rows were read, and how many changes there were in all."""
    reads = changes = 0
    with duckdb.connect() as judging:
        judging.execute("CREATE TABLE seen (id BIGINT, version BIGINT, place BIGINT)")
        for found in _journaled(journal):
            judging.register("block", found)
            judging.execute("INSERT INTO seen SELECT id, version, place FROM block")
            reads += pc.sum(pc.equal(found["op"], int(Op.READ))).as_py() or 0
            changes += len(found)
        _assert_never_back(judging, "the journal")
    return reads, changes


def _journaled(journal: Path) -> Iterator[pa.Table]:
    with Reader(journal) as reader:
        offset = reader.first_offset()
        assert offset == 0, "the journal has let go of what is to be judged"
        while batches := reader.read(offset, max_changes=200_000, max_bytes=64 << 20):
            offset = batches[-1].end
            for batch in batches:
                for group in batch.groups:
                    if group.relation.name != "goods":
                        continue
                    ops = group.meta("op")
                    there = pc.not_equal(ops, int(Op.DELETE))
                    places = pc.add(pc.cast(group.meta("index"), pa.int64()), batch.base)
                    ids, versions = (pc.if_else(there, group.new(i).cast(pa.int64()), None) for i in (0, 1))
                    yield pa.table({"id": ids, "version": versions, "place": places, "op": ops})


def assert_files_never_go_back(project: Project, changes: int) -> None:
    """The files hold each of the journal's `changes` once, and whoever applies them has the source's rows."""
    with duckdb.connect() as judging:
        judging.execute(_FILES, [[str(file) for file in sorted(project.files.rglob("*.jsonl"))]])
        found = judging.execute("SELECT count(*), count(DISTINCT event) FROM seen").fetchone()
        assert found == (changes, changes), f"of {changes} changes the files hold {found}"
        _assert_never_back(judging, "the files")
        left = judging.execute(_LEFT).fetchone()
    assert left is not None
    [source] = project.server.execute(_LEFT_AT_SOURCE)
    assert [int(value) for value in left] == [int(value) for value in source]


def assert_webhook_never_goes_back(record: Path) -> int:
    """An event that came again, as at-least-once allows, counts where it came first. Gives how many came."""
    events: dict[str, tuple[int, int]] = {}
    with record.open(encoding="utf-8") as lines:
        for line in lines:
            request = json.loads(line)
            event = request["body"]
            if request["status"] < 300 and event["new"] is not None:
                events.setdefault(event["id"], (int(event["new"]["id"]), int(event["new"]["version"])))
    ids, versions = zip(*events.values(), strict=True)
    with duckdb.connect() as judging:
        judging.register("block", pa.table({"id": ids, "version": versions, "place": range(len(ids))}))
        judging.execute("CREATE TABLE seen AS SELECT * FROM block")
        _assert_never_back(judging, "the webhook")
    return len(events)


def _assert_never_back(judging: duckdb.DuckDBPyConnection, where: str) -> None:
    found = judging.execute(_BACK).fetchall()
    went = "; ".join(f"row {key} from version {before} to {version}" for key, before, version in found)
    assert not found, f"in {where} rows went back: {went}"


class Looking:
    """Asks the warehouse again and again while it fills, as `cdcflow query` does, for every row whose id is a
    multiple of `sample`."""

    #: Seconds between two looks.
    EVERY = 0.3

    def __init__(self, project: Project, sample: int) -> None:
        self._project = project
        self._sample = sample
        self._stop = threading.Event()
        self._held: dict[int, int] = {}
        self.looks = 0
        self.went_back: list[str] = []
        self._thread = threading.Thread(target=self._look_on, name="looking")
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _look_on(self) -> None:
        query = f"SELECT id, version FROM public.goods WHERE id % {self._sample} = 0"
        while not self._stop.wait(self.EVERY):
            try:
                answer = control.query(self._project.state, "warehouse", query)
            except (CdcflowError, OSError):
                continue  # the worker is dead, or the table has not begun
            self.looks += 1
            found = zip(answer["id"].to_pylist(), answer["version"].to_pylist(), strict=True)
            for key, version in found:
                if version < self._held.get(key, 0):
                    self.went_back.append(f"row {key} from version {self._held[key]} to {version}")
                self._held[key] = version

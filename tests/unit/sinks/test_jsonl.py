"""The jsonl sink: each change once in its files, whatever happens in between."""

import asyncio
import errno
import os
import random
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import orjson
import pytest

from cdcflow.delivery.handover import chosen
from cdcflow.errors import Permanent, Transient
from cdcflow.model import Batch, Column, Op, Position, join
from cdcflow.sink import FlowContext, PositionedSink, Probe, Sink, TransactionalSink
from cdcflow.testing.batches import inserts, make_batch, make_relation
from cdcflow.testing.conformance import SinkConformance
from cdcflow.testing.waiting import eventually
from cdcflow_sinks.jsonl import JsonlSettings, JsonlSink, Rotate
from cdcflow_sinks.jsonl.files import FlowFiles

T = TypeVar("T")
RELATION = make_relation()


def rotating(size: str = "64MB", age: str = "1h") -> Rotate:
    return Rotate.model_validate({"size": size, "age": age})


SMALL = rotating("1kB")


def lines(folder: Path, flow: str = "orders") -> list[dict[str, Any]]:
    """Every line of a flow's files, in the order of the files' names. Fails for a line that is not JSON."""
    return [
        orjson.loads(line)
        for path in sorted(folder.glob(f"{flow}.*.jsonl"))
        for line in path.read_bytes().splitlines()
    ]


def offsets(folder: Path, flow: str = "orders") -> list[int]:
    return [line["offset"] for line in lines(folder, flow)]


def sink_in(folder: Path, rotate: Rotate = SMALL, flow: str = "orders") -> JsonlSink:
    settings = JsonlSettings(type="jsonl", path=folder, rotate=rotate)
    return JsonlSink(settings, FlowContext(flow=flow, state=folder))


def batch(base: int, count: int) -> Batch:
    return inserts(RELATION, range(base, base + count), base=base, commit_lsn=1_000 + 8 * base)


def use(sink: JsonlSink, work: Callable[[JsonlSink], Awaitable[T]]) -> T:
    async def run() -> T:
        try:
            await sink.open()
            return await work(sink)
        finally:
            await sink.close()

    return asyncio.run(run())


def write(folder: Path, *batches: Batch, rotate: Rotate = SMALL, flow: str = "orders") -> None:
    async def work(sink: JsonlSink) -> None:
        for one in batches:
            await sink.write(one)

    use(sink_in(folder, rotate, flow), work)


def checkpoint(folder: Path) -> int | None:
    return use(sink_in(folder), lambda sink: sink.checkpoint())


class TestJsonl(SinkConformance):
    holds = "events"
    exactly_once = True

    def make_sink(self, context: FlowContext) -> Sink:
        return JsonlSink(JsonlSettings(type="jsonl", path=self.place, rotate=rotating("20kB")), context)

    def make_failing_sink(self, context: FlowContext) -> Sink:
        (self.place / "a file").touch()
        return JsonlSink(JsonlSettings(type="jsonl", path=self.place / "a file" / "below"), context)

    def events(self) -> Sequence[Mapping[str, Any]]:
        return lines(self.place, "conformance")


def test_it_keeps_its_checkpoint_and_can_be_probed(tmp_path: Path) -> None:
    sink = sink_in(tmp_path)
    assert isinstance(sink, TransactionalSink)
    assert isinstance(sink, Probe)


def test_a_line_is_the_event_behind_its_offset(tmp_path: Path) -> None:
    write(tmp_path, batch(7, 1))
    assert lines(tmp_path) == [
        {
            "offset": 7,
            "id": "0/420:1",
            "op": "insert",
            "schema": "public",
            "table": "orders",
            "key": {"id": "7"},
            "new": {"id": "7", "status": "status 7", "note": "note 7"},
            "old": None,
            "position": "0/420:1",
            "xid": 700,
            "commit_time": "2026-01-01T00:00:00.000000Z",
        }
    ]


def test_a_file_is_full_at_its_size_and_named_by_its_first_offset(tmp_path: Path) -> None:
    write(tmp_path, batch(0, 20), batch(20, 20))
    files = sorted(tmp_path.glob("*.jsonl"))
    assert len(files) > 5
    for path in files:
        assert path.stat().st_size <= SMALL.size
        first = orjson.loads(path.read_bytes().splitlines()[0])
        assert path.name == f"orders.{first['offset']:020}.jsonl"
    assert offsets(tmp_path) == list(range(40))


def test_an_event_larger_than_a_file_has_a_file_of_its_own(tmp_path: Path) -> None:
    write(tmp_path, batch(0, 3), rotate=rotating("10B"))
    assert [len(path.read_bytes().splitlines()) for path in sorted(tmp_path.glob("*.jsonl"))] == [1, 1, 1]


def test_a_file_does_not_span_a_multiple_of_the_age(tmp_path: Path) -> None:
    now = 7_199.0
    files = FlowFiles(tmp_path, "orders", rotating(), clock=lambda: now)
    files.open()
    for offset, moment in enumerate((7_199.0, 7_200.0, 10_799.9, 10_800.0)):
        now = moment
        files.append(offset, b'{"offset":%d}\n' % offset)
        files.commit(offset + 1, "0/8:1")
    files.close()
    assert [offsets_of(path) for path in sorted(tmp_path.glob("*.jsonl"))] == [[0], [1, 2], [3]]


def offsets_of(path: Path) -> list[int]:
    return [orjson.loads(line)["offset"] for line in path.read_bytes().splitlines()]


def test_a_file_of_an_earlier_hour_is_not_continued_after_a_restart(tmp_path: Path) -> None:
    write(tmp_path, batch(0, 1))
    (path,) = tmp_path.glob("*.jsonl")
    os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 3_600))
    write(tmp_path, batch(1, 1))
    assert [offsets_of(path) for path in sorted(tmp_path.glob("*.jsonl"))] == [[0], [1]]


def test_rotated_files_never_change(tmp_path: Path) -> None:
    write(tmp_path, batch(0, 20))
    before = {path: path.read_bytes() for path in sorted(tmp_path.glob("*.jsonl"))[:-1]}
    last = sorted(tmp_path.glob("*.jsonl"))[-1]
    last.write_bytes(last.read_bytes()[:-5])
    (tmp_path / "orders.checkpoint.json").unlink()
    write(tmp_path, batch(0, 20), batch(20, 20))
    assert {path: path.read_bytes() for path in before} == before
    assert offsets(tmp_path) == list(range(40))


def test_a_torn_last_line_is_cut_at_open(tmp_path: Path) -> None:
    write(tmp_path, batch(0, 3), rotate=rotating())
    (path,) = tmp_path.glob("*.jsonl")
    whole = path.read_bytes()
    next_line = whole.splitlines(keepends=True)[2].replace(b'"offset":2', b'"offset":3')
    for length in range(1, len(next_line)):
        path.write_bytes(whole + next_line[:length])
        assert checkpoint(tmp_path) == 3
        assert path.read_bytes() == whole
    # With its newline it is no longer torn: it was written before the process died.
    path.write_bytes(whole + next_line)
    assert checkpoint(tmp_path) == 4


def test_the_checkpoint_is_found_when_only_the_files_are_left(tmp_path: Path) -> None:
    write(tmp_path, batch(0, 20))
    (tmp_path / "orders.checkpoint.json").unlink()
    assert checkpoint(tmp_path) == 20


def test_the_position_of_the_last_change_tells_one_journal_from_another(tmp_path: Path) -> None:
    def position() -> Position | None:
        return use(sink_in(tmp_path), lambda sink: sink.position())

    assert isinstance(sink_in(tmp_path), PositionedSink)
    assert position() is None
    write(tmp_path, batch(0, 20), batch(20, 3))
    assert position() == batch(20, 3).last
    (tmp_path / "orders.checkpoint.json").unlink()
    assert position() == batch(20, 3).last
    # Changes for other flows: no line tells of them.
    write(tmp_path, replace(batch(23, 2), groups=()))
    assert position() == batch(23, 2).last


def test_half_a_record_of_the_checkpoint_is_no_record(tmp_path: Path) -> None:
    write(tmp_path, batch(0, 20))
    record = tmp_path / "orders.checkpoint.json"
    record.write_bytes(record.read_bytes()[:15])
    assert checkpoint(tmp_path) == 20


def test_files_that_were_consumed_and_removed_do_not_come_again(tmp_path: Path) -> None:
    write(tmp_path, batch(0, 20))
    for path in tmp_path.glob("*.jsonl"):
        path.unlink()
    write(tmp_path, batch(0, 20), batch(20, 2))
    assert offsets(tmp_path) == [20, 21]


def test_a_block_lost_in_a_power_failure_is_cut_with_all_that_follows(tmp_path: Path) -> None:
    write(tmp_path, batch(0, 3), rotate=rotating())
    (path,) = tmp_path.glob("*.jsonl")
    durable = path.read_bytes()
    # What a second batch may have left behind: a block of zeros, and whole lines after it.
    path.write_bytes(durable + bytes(4_096) + b'\n{"offset":5}\n{"offset":6}\n')
    assert checkpoint(tmp_path) == 3
    assert path.read_bytes() == durable


def test_a_line_that_steps_back_ends_what_is_believed(tmp_path: Path) -> None:
    write(tmp_path, batch(0, 3), rotate=rotating())
    (path,) = tmp_path.glob("*.jsonl")
    durable = path.read_bytes()
    path.write_bytes(durable + b'{"offset":3}\n{"offset":3}\n{"offset":4}\n')
    assert checkpoint(tmp_path) == 4
    assert path.read_bytes() == durable + b'{"offset":3}\n'


def test_a_file_made_for_a_line_that_never_came_is_removed(tmp_path: Path) -> None:
    write(tmp_path, batch(0, 2), rotate=rotating())
    (tmp_path / "orders.00000000000000000002.jsonl").touch()
    write(tmp_path, Batch((), 5, batch(2, 1).last, base=2), batch(7, 1), rotate=rotating())
    assert [path.name for path in sorted(tmp_path.glob("*.jsonl"))] == ["orders.00000000000000000000.jsonl"]
    assert offsets(tmp_path) == [0, 1, 7]


def test_a_file_shorter_than_what_was_durable_is_damage(tmp_path: Path) -> None:
    write(tmp_path, batch(0, 3), rotate=rotating())
    (path,) = tmp_path.glob("*.jsonl")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(Permanent, match=r"has 100 bytes, and \d+ were written"):
        write(tmp_path, batch(3, 1))


def test_two_flows_share_a_directory(tmp_path: Path) -> None:
    for flow in ("a", "a-b"):
        write(tmp_path, batch(0, 12), flow=flow)
    write(tmp_path, batch(12, 12), flow="a")
    assert offsets(tmp_path, "a") == list(range(24))
    assert offsets(tmp_path, "a-b") == list(range(12))


def test_a_second_writer_of_the_same_flow_has_to_wait(tmp_path: Path) -> None:
    async def work(_: JsonlSink) -> None:
        with pytest.raises(Transient, match="another process writes the files of flow orders"):
            await use_inside(sink_in(tmp_path))

    async def use_inside(second: JsonlSink) -> None:
        try:
            await second.open()
        finally:
            await second.close()

    use(sink_in(tmp_path), work)
    write(tmp_path, batch(0, 1))


def test_files_and_directory_are_for_their_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    write(folder, batch(0, 20))
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


@pytest.mark.parametrize("call", ["write", "fdatasync"])
@pytest.mark.parametrize("successes", [0, 1, 3, 7])
def test_after_a_full_disk_the_same_batch_is_written_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, successes: int
) -> None:
    real_write, real_fdatasync = os.write, os.fdatasync
    left = successes

    def failing_write(fd: int, data: memoryview) -> int:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        # As the last write before the disk is full: only a part of the data fits.
        return real_write(fd, data[: max(1, len(data) // 2)])

    def failing_fdatasync(fd: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        real_fdatasync(fd)

    async def work(sink: JsonlSink) -> None:
        await sink.write(batch(0, 5))
        with monkeypatch.context() as patch:
            patch.setattr(os, call, failing_write if call == "write" else failing_fdatasync)
            with pytest.raises(Transient, match="No space left") as caught:
                await sink.write(batch(5, 40))
        assert "free some space" in caught.value.hint
        await sink.write(batch(5, 40))

    use(sink_in(tmp_path), work)
    assert offsets(tmp_path) == list(range(45))
    assert checkpoint(tmp_path) == 45


def test_lines_that_were_not_committed_are_gone_after_close(tmp_path: Path) -> None:
    files = FlowFiles(tmp_path, "orders", rotating())
    files.open()
    files.append(0, b'{"offset":0}\n')
    files.commit(1, "0/8:1")
    files.append(1, b'{"offset":1,"text":"%s"}\n' % (b"x" * (2 << 20)))
    files.close()
    assert offsets(tmp_path) == [0]


@pytest.mark.parametrize("seed", range(20))
def test_dead_letters_stay_through_rotation_restarts_and_moves(tmp_path: Path, seed: int) -> None:
    """Against a plain model of what is in the files: offsets, and whether each came as a letter."""
    draw = random.Random(seed)
    rotate = rotating(draw.choice(["1kB", "10kB"]))
    model: set[tuple[int, bool]] = set()
    end, refused = 0, set[int]()
    for _ in range(12):

        async def work(sink: JsonlSink) -> None:
            nonlocal end, model
            if model and draw.random() < 0.4:
                end = draw.randrange(end + 1)
                await sink.move(end, Position(1_000 + 8 * end, 0), whole=end == 0)
                model = {one for one in model if one[0] < end}
                refused.intersection_update(range(end))
            assert (await sink.checkpoint() or 0) == end
            for _ in range(draw.randrange(4)):
                if refused and draw.random() < 0.5:
                    ready = sorted(draw.sample(sorted(refused), draw.randrange(len(refused)) + 1))
                    run = join([replace(batch(offset, 1), base=i) for i, offset in enumerate(ready)])
                    await sink.redeliver(run[0], ready)
                    refused.difference_update(ready)
                    model |= {(offset, True) for offset in ready}
                    continue
                whole = batch(end, draw.randrange(1, 9))
                gone = {i for i in range(whole.count) if draw.random() < 0.3}
                await sink.write(chosen(whole, set(range(whole.count)) - gone))
                model |= {(end + i, False) for i in range(whole.count) if i not in gone}
                refused.update(end + i for i in gone)
                end = whole.end

        use(sink_in(tmp_path, rotate), work)
        found = [(line["offset"], "redelivered" in line) for line in lines(tmp_path)]
        assert sorted(found) == sorted(model)
        usual = [offset for offset, letter in found if not letter]
        assert usual == sorted(usual)


def test_a_move_that_is_cut_short_behind_what_it_keeps_leaves_each_letter_once(tmp_path: Path) -> None:
    async def fill(sink: JsonlSink) -> None:
        await sink.write(chosen(batch(0, 40), set(range(1, 40))))
        await sink.redeliver(batch(0, 1), [0])

    async def move(sink: JsonlSink) -> None:
        await sink.move(20, Position(1_000 + 8 * 20, 0), whole=False)

    use(sink_in(tmp_path), fill)
    files = FlowFiles(tmp_path, "orders", SMALL)
    files.open()
    files._keep_redelivered(20)  # what comes next has not come
    files.close()
    assert offsets(tmp_path).count(0) == 2
    use(sink_in(tmp_path), move)
    assert sorted(offsets(tmp_path)) == list(range(20))


def test_a_path_that_cannot_be_a_directory_needs_a_person(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Permanent, match="Not a directory") as caught:
        write(tmp_path / "file" / "below", batch(0, 1))
    assert "give another path" in caught.value.hint


def test_the_probe_says_whether_the_place_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    def severity(path: Path) -> str:
        (finding,) = asyncio.run(sink_in(path, rotating("1B")).probe())
        return finding.severity

    assert severity(tmp_path / "not" / "yet" / "there") == "ok"
    assert not (tmp_path / "not").exists()
    assert severity(tmp_path / "file" / "below") == "error"


WRITER = """
import asyncio, sys
from dataclasses import replace
from pathlib import Path
from cdcflow_sinks.jsonl import JsonlSettings, JsonlSink, Rotate
from cdcflow.sink import FlowContext
from cdcflow.testing.batches import inserts, make_batch, make_relation

async def main(folder, total):
    settings = JsonlSettings(type="jsonl", path=folder, rotate=Rotate.model_validate({"size": "8kB"}))
    sink = JsonlSink(settings, FlowContext(flow="orders", state=folder))
    await sink.open()
    base = await sink.checkpoint() or 0
    print("open", flush=True)
    # A restarted engine may begin before the checkpoint; the sink knows better.
    base = max(base - 5, 0)
    while base < total:
        count = min(1 + base % 37, total - base)
        await sink.write(inserts(make_relation(), range(base, base + count), base=base, commit_lsn=8 + base))
        base += count
    await sink.close()

asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
"""


def test_each_change_is_there_once_after_many_kills(tmp_path: Path) -> None:
    total = 6_000
    command = [sys.executable, "-c", WRITER, str(tmp_path), str(total)]
    kills = 0
    for _ in range(8):
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"open\n"
            before = sum(path.stat().st_size for path in tmp_path.glob("*.jsonl"))
            # Somewhere in the next tens of kilobytes, hence in the middle of whatever it is doing.
            goal = before + random.randrange(1, 60_000)
            eventually(
                lambda process=process, goal=goal: (  # type: ignore[misc]
                    process.poll() is not None
                    or sum(path.stat().st_size for path in tmp_path.glob("*.jsonl")) >= goal
                ),
                interval=0.0005,
            )
            kills += process.poll() is None
            process.kill()
    assert kills >= 3
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=60)
    assert offsets(tmp_path) == list(range(total))


def test_a_reader_with_exact_numbers_can_have_them(tmp_path: Path) -> None:
    relation = make_relation("amounts", [Column("id", 20, key=True), Column("total", 1700)])
    values = {"id": "9007199254740993", "total": "1.10"}
    changes = make_batch(relation, [(Op.INSERT, values, None)])

    for numbers in ("safe", "exact"):
        settings = JsonlSettings.model_validate(
            {"type": "jsonl", "path": tmp_path / numbers, "numbers": numbers}
        )
        use(JsonlSink(settings, FlowContext(flow="orders", state=tmp_path)), lambda sink: sink.write(changes))

    [safe], [exact] = (
        next((tmp_path / numbers).glob("orders.*.jsonl")).read_bytes().splitlines()
        for numbers in ("safe", "exact")
    )
    assert b'"new":{"id":"9007199254740993","total":"1.10"}' in safe
    assert b'"key":{"id":9007199254740993},"new":{"id":9007199254740993,"total":1.10}' in exact

from collections.abc import Mapping

import pytest

from cdcflow.engine.groups import placed, together


def test_flows_of_the_same_exclusive_destination_share_a_process() -> None:
    flows = [("a", "x.duckdb"), ("b", None), ("c", "x.duckdb"), ("d", "y.duckdb"), ("e", None)]
    assert together(flows) == [("a", "c"), ("b",), ("d",), ("e",)]


def in_processes(places: Mapping[str, int]) -> list[set[str]]:
    return [{name for name, at in places.items() if at == number} for number in sorted({*places.values()})]


GROUPS = [("a", "c"), ("b",), ("d",), ("e",)]


def test_a_bound_on_processes_joins_groups_evenly_and_never_splits_one() -> None:
    joined = in_processes(placed(GROUPS, {}, 2))
    assert sorted(map(len, joined)) == [2, 3]
    assert any({"a", "c"} <= names for names in joined)
    assert in_processes(placed(GROUPS, {}, 1)) == [{"a", "b", "c", "d", "e"}]


def test_without_a_bound_or_below_it_groups_stay_apart() -> None:
    apart = [{"a", "c"}, {"b"}, {"d"}, {"e"}]
    assert in_processes(placed(GROUPS, {}, None)) == apart
    assert in_processes(placed(GROUPS, {}, 5)) == apart
    assert placed([], {}, 2) == {}


@pytest.mark.parametrize("processes", [None, 2, 3])
def test_who_has_a_place_keeps_it_when_others_come_and_go(processes: int | None) -> None:
    before = placed(GROUPS, {}, processes)
    after = placed([("new",), ("d",), ("a", "c", "too"), ("b",)], before, processes)
    assert {name: after[name] for name in "abcd"} == {name: before[name] for name in "abcd"}
    assert after["too"] == after["a"]
    if processes is None:
        assert after["new"] not in before.values()


def test_a_flow_that_leaves_a_shared_destination_leaves_the_process() -> None:
    before = placed(GROUPS, {}, None)
    after = placed([("a",), ("c",), ("b",)], before, None)
    assert (after["a"], after["b"]) == (before["a"], before["b"])
    assert after["c"] not in before.values()

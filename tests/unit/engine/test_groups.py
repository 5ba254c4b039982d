from cdcflow.engine.groups import bounded, together


def test_flows_of_the_same_exclusive_destination_share_a_process() -> None:
    flows = [("a", "x.duckdb"), ("b", None), ("c", "x.duckdb"), ("d", "y.duckdb"), ("e", None)]
    assert together(flows) == [("a", "c"), ("b",), ("d",), ("e",)]


def test_a_bound_on_processes_joins_groups_evenly_and_never_splits_one() -> None:
    groups = [("a", "c"), ("b",), ("d",), ("e",)]
    joined = bounded(groups, 2)
    assert len(joined) == 2
    assert sorted(name for group in joined for name in group) == ["a", "b", "c", "d", "e"]
    assert any({"a", "c"} <= set(group) for group in joined)
    assert {len(group) for group in joined} == {2, 3}
    assert bounded(groups, 1) == [("a", "c", "b", "d", "e")]


def test_without_a_bound_or_below_it_groups_stay_apart() -> None:
    groups = [("a",), ("b",)]
    assert bounded(groups, None) == groups
    assert bounded(groups, 5) == groups
    assert bounded([], 2) == []

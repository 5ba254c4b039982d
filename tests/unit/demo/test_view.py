"""What the demo shows: unknown figures as such, and rates that survive a restart."""

import io
from dataclasses import replace

from rich.console import Console

from cdcflow.demo.view import Lines, Look, Rates, drawn

LOOK = Look(
    at=100.0,
    elapsed=5.0,
    committed=1_200,
    rolled_back=40,
    captured=1_000,
    lag_bytes=0,
    state="streaming",
    flows=[
        {
            "name": "warehouse",
            "state": "up to date",
            "reason": "",
            "lag_changes": 0,
            "delivered": 7,
            "retries": 0,
        }
    ],
    source={"orders": 1_234, "customers": 6},
    warehouse={"orders": 1_230, "customers": 6},
    delivered=50,
    latest=("insert   orders           id 7  status new",),
)


def test_a_line_tells_rate_lag_rows_and_deliveries() -> None:
    said: list[str] = []
    with Lines(said.append) as view:
        view.show(LOOK)
        view.show(replace(LOOK, at=102.0, elapsed=7.0, captured=1_400, delivered=70, lag_bytes=2_500))
    assert said == [
        "  5 s: 1,000 changes, lag 0 B, warehouse 1,236 of 1,240 rows, 50 deliveries, warehouse up to date",
        "  7 s: 1,400 changes (200/s), lag 2.5 kB, warehouse 1,236 of 1,240 rows, 70 deliveries (10/s), "
        "warehouse up to date",
    ]


def test_what_is_not_known_is_never_a_number() -> None:
    said: list[str] = []
    Lines(said.append).show(
        replace(LOOK, captured=None, lag_bytes=None, warehouse=None, flows=[], state="starting")
    )
    assert said == ["  5 s: – changes, lag –, warehouse – of 1,240 rows, 50 deliveries, starting"]


def test_a_rate_is_that_of_the_last_seconds() -> None:
    rates = Rates()
    for second in range(20):
        captured, _ = rates.add(
            replace(LOOK, at=float(second), captured=0 if second < 10 else (second - 10) * 30)
        )
    assert captured == 30.0


def test_a_capture_that_was_restarted_has_no_rate_for_a_moment() -> None:
    rates = Rates()
    rates.add(LOOK)
    assert rates.add(replace(LOOK, at=101.0, captured=3))[0] is None


def test_the_screen_shows_every_table_flow_and_the_latest_events() -> None:
    console = Console(file=io.StringIO(), width=120)
    console.print(drawn(replace(LOOK, warehouse={"orders": 1_230}), 200.0, None))
    output = console.file
    assert isinstance(output, io.StringIO)
    text = output.getvalue()
    for expected in ("streaming", "(200/s)", "1,234", "1,230", "up to date", "status new", "50 deliveries"):
        assert expected in text
    assert "–" in text

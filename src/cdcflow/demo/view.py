"""What the demo shows while it runs: a live screen on a terminal, a line now and then elsewhere."""

import sys
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, Self

#: Seconds between two looks, and between two lines where there is no terminal.
SCREEN_INTERVAL = 0.5
LINE_INTERVAL = 5.0
#: Seconds that a rate is averaged over.
RATE_WINDOW = 5.0
#: Deliveries that the screen shows.
SHOWN = 8


@dataclass(frozen=True)
class Look:
    """The demo at one moment. None stands for what is not known."""

    at: float
    elapsed: float
    committed: int
    rolled_back: int
    #: Changes that capture has put into the journal since it started.
    captured: int | None
    lag_bytes: int | None
    state: str
    flows: list[Mapping[str, Any]]
    source: Mapping[str, int]
    warehouse: Mapping[str, int] | None
    #: Requests that the webhook's receiver took.
    delivered: int
    latest: tuple[str, ...]


@dataclass
class Rates:
    """Changes and deliveries per second over the last few seconds; None before there are two looks."""

    _looks: deque[Look] = field(default_factory=deque)

    def add(self, look: Look) -> tuple[float | None, float | None]:
        self._looks.append(look)
        while len(self._looks) > 2 and look.at - self._looks[0].at > RATE_WINDOW:
            self._looks.popleft()
        first = self._looks[0]
        seconds = look.at - first.at
        if seconds <= 0:
            return None, None
        captured = None
        # A capture that was restarted counts from nothing again.
        if look.captured is not None and first.captured is not None and look.captured >= first.captured:
            captured = (look.captured - first.captured) / seconds
        return captured, (look.delivered - first.delivered) / seconds


class View(Protocol):
    """Shows looks until it is closed."""

    #: Seconds between two looks that are worth showing.
    interval: float

    def show(self, look: Look) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def view() -> View:
    """For a person if stderr is a terminal."""
    return Screen() if sys.stderr.isatty() else Lines(lambda line: print(line, file=sys.stderr, flush=True))


class Lines:
    """A line at each look."""

    interval = LINE_INTERVAL

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._rates = Rates()

    def show(self, look: Look) -> None:
        self._say(line(look, *self._rates.add(look)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


def line(look: Look, captured: float | None, delivered: float | None) -> str:
    """`12 s: 1,210 changes (240/s), lag 0 B, warehouse 6,012 of 6,020 rows, 812 deliveries (90/s), …`"""
    held = None if look.warehouse is None else sum(look.warehouse.values())
    states = ", ".join(f"{flow['name']} {flow['state']}" for flow in look.flows)
    return (
        f"{look.elapsed:3.0f} s: {number(look.captured)} changes{rate(captured)}, "
        f"lag {size(look.lag_bytes)}, "
        f"warehouse {number(held)} of {number(sum(look.source.values()))} rows, "
        f"{number(look.delivered)} deliveries{rate(delivered)}, {states or look.state}"
    )


class Screen:
    """A screen that is drawn anew at each look, on stderr."""

    interval = SCREEN_INTERVAL

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._rates = Rates()
        self._live = Live(console=Console(stderr=True), auto_refresh=False)

    def show(self, look: Look) -> None:
        self._live.update(drawn(look, *self._rates.add(look)), refresh=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()


def drawn(look: Look, captured: float | None, delivered: float | None) -> Any:
    """The screen's content."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    head = Text.assemble(
        ("cdcflow demo", "bold"),
        f"   {look.elapsed:.0f} s   capture ",
        (look.state, _colour(look.state)),
        f"   {number(look.captured)} changes{rate(captured)}   lag {size(look.lag_bytes)}   ",
        f"{look.committed:,} transactions, {look.rolled_back:,} rolled back",
    )
    flows = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("flow", "state", "behind", "delivered", "retries"):
        flows.add_column(name, justify="left" if name in ("flow", "state") else "right", min_width=9)
    for flow in look.flows:
        state = Text(flow["state"], style=_colour(flow["state"]))
        if flow["reason"]:
            state.append(f": {flow['reason']}", style="dim")
        figures = (number(flow[name]) for name in ("lag_changes", "delivered", "retries"))
        flows.add_row(flow["name"], state, *figures)
    rows = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("table", "source", "warehouse", ""):
        rows.add_column(name, justify="left" if name in ("table", "") else "right", min_width=9)
    for table, count in look.source.items():
        held = None if look.warehouse is None else look.warehouse.get(table)
        mark = Text("=", style="green") if held == count else Text("…", style="yellow")
        rows.add_row(table, f"{count:,}", number(held), mark)
    hook = Text.assemble(
        ("webhook", "bold"), f"   {look.delivered:,} deliveries{rate(delivered)}, the latest:"
    )
    events = [Text(f"  {event}", style="dim", no_wrap=True, overflow="ellipsis") for event in look.latest]
    foot = Text("Ctrl-C stops everything and removes nothing", style="dim")
    return Group(head, Text(), flows, Text(), rows, Text(), hook, *events, Text(), foot)


def _colour(state: str) -> str:
    if state in ("up to date", "streaming"):
        return "green"
    return "red" if state in ("needs attention", "unknown", "stopped") else "yellow"


def number(count: int | None) -> str:
    return "–" if count is None else f"{count:,}"


def rate(per_second: float | None) -> str:
    return "" if per_second is None else f" ({per_second:,.0f}/s)"


def size(count: int | None) -> str:
    if count is None:
        return "–"
    return f"{count} B" if count < 1_000 else f"{count / 1_000:,.1f} kB"

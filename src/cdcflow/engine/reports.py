"""What the processes of an engine tell each other: one JSON object per line over the children's pipes."""

from dataclasses import asdict, dataclass
from typing import Any

import orjson

from cdcflow.delivery import FlowReport


@dataclass(frozen=True, slots=True)
class CaptureReport:
    """Capture's figures at one moment, as `cdcflow.source.capture` gives them."""

    figures: dict[str, Any]

    @property
    def state(self) -> str:
        return str(self.figures.get("state", "connecting"))


@dataclass(frozen=True, slots=True)
class Failed:
    """The last word of a process that ends by its own judgement, with the exit code it ends with."""

    message: str
    hint: str = ""
    code: int = 1


@dataclass(frozen=True, slots=True)
class Delivered:
    """To capture: every flow holds everything below this journal offset."""

    offset: int


@dataclass(frozen=True, slots=True)
class Live:
    """To delivery: the source is being streamed."""

    streaming: bool = True


@dataclass(frozen=True, slots=True)
class Assigned:
    """To delivery: these flows and no others. By name, with a token that changes whenever the flow is to
    begin anew: with another configuration, or elsewhere in the journal."""

    flows: dict[str, str]


@dataclass(frozen=True, slots=True)
class Ended:
    """From delivery: the flow writes no more here, after its last report."""

    flow: str


Report = CaptureReport | FlowReport | Failed | Ended
Order = Delivered | Live | Assigned

_KINDS: dict[str, type[Any]] = {
    "capture": CaptureReport,
    "flow": FlowReport,
    "failed": Failed,
    "delivered": Delivered,
    "live": Live,
    "assigned": Assigned,
    "ended": Ended,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}


def encode(message: Report | Order) -> bytes:
    """One line, with its newline."""
    return orjson.dumps({"kind": _NAMES[type(message)], **asdict(message)}, option=orjson.OPT_APPEND_NEWLINE)


def decode(line: bytes) -> Report | Order:
    """Raises ValueError for what `encode` did not write."""
    fields = orjson.loads(line)
    if not isinstance(fields, dict):
        raise ValueError("a report is a JSON object")
    kind = _KINDS.get(fields.pop("kind", ""))
    if kind is None:
        raise ValueError("a report has one of the known kinds")
    try:
        message: Report | Order = kind(**fields)
    except TypeError as error:
        raise ValueError(f"a report's fields do not fit: {error}") from error
    return message

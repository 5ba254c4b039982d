"""One result of a check: what was found, and what to do about it."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """`severity`: `ok` is worth showing, `warning` will hurt later, `error` stops the engine.

    `sql` is a remedy that can be copied and run as it stands, or empty.
    """

    severity: Literal["ok", "warning", "error"]
    subject: str
    message: str
    remedy: str = ""
    sql: str = ""

"""One result of a check: what was found, and what to do about it."""

from dataclasses import dataclass
from typing import Literal

#: When a remedy's SQL is run, among the remedies of others; in this order. `restart` holds settings that
#: count only after a restart of the server, `settings` those that need none. `choice` is SQL that has a
#: price: it is shown and never run unasked.
Stage = Literal["restart", "settings", "role", "tables", "publication", "slot", "choice"]


@dataclass(frozen=True, slots=True)
class Finding:
    """`severity`: `ok` is worth showing, `warning` will hurt later, `error` stops the engine.

    `sql` is a remedy that can be copied and run as it stands, or empty; `stage` is when.
    """

    severity: Literal["ok", "warning", "error"]
    subject: str
    message: str
    remedy: str = ""
    sql: str = ""
    stage: Stage = "choice"

"""A DDL command, as our event triggers at the source put it into the stream (`sql/ddl_triggers.sql`)."""

import json
from dataclasses import dataclass
from typing import Any, Literal

#: The prefix of the logical messages that hold them. One of cdcflow's own, so no wildcard means it.
DDL_PREFIX = "cdcflow.ddl"


@dataclass(frozen=True, slots=True)
class DdlObject:
    """What a command was about, in the catalog's words: `table`, `public`, `public.orders`."""

    type: str
    schema: str | None
    identity: str


@dataclass(frozen=True, slots=True)
class DdlCommand:
    """`tag` is `ALTER TABLE` and its like. `text` is all that the client had sent at once, which can be
    several statements, or a call of the function that ran the DDL; None where it may hold a password."""

    event: Literal["ddl_command_end", "sql_drop"]
    tag: str
    text: str | None
    user: str
    search_path: str
    objects: tuple[DdlObject, ...]

    @classmethod
    def parse(cls, content: str) -> "DdlCommand | None":
        """The command in a message's content; None where it is none, for anybody can write a message."""
        try:
            state: dict[str, Any] = json.loads(content)
            return cls(
                "sql_drop" if state["event"] == "sql_drop" else "ddl_command_end",
                str(state["tag"]),
                None if state["text"] is None else str(state["text"]),
                str(state["user"]),
                str(state["search_path"]),
                tuple(DdlObject(o["type"], o["schema"], o["identity"]) for o in state["objects"]),
            )
        except (ValueError, KeyError, TypeError):
            return None

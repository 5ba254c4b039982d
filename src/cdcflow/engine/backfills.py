"""What may be asked of backfills, and what the status says of them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import orjson

from cdcflow.config import Config
from cdcflow.engine.places import Places
from cdcflow.errors import CdcflowError, ConfigurationError
from cdcflow.model import Relation
from cdcflow.model.patterns import TablePatterns
from cdcflow.source.requests import Kept, Requests, from_state

#: Ended backfills in the status document; `cdcflow backfill status` shows them.
SHOWN = 10


def answer(config: Config, asked: Mapping[str, Any]) -> bytes:
    """Does what `cdcflow backfill` asks of a running engine: keeps the request, which capture finds. Raises
    CdcflowError."""
    requests = Requests(Places(config.engine.state).backfills)
    match asked.get("do"):
        case "start":
            request = from_state(asked.get("request") or {})
            require_flows(config, request.flows)
            _require_free(requests, request.tables)
            return orjson.dumps(asdict(requests.add(request)))
        case "run" | "pause" | "cancel" as wish:
            return orjson.dumps(asdict(requests.wish(str(asked.get("name")), wish)))
    raise CdcflowError("a backfill can be started, paused, resumed and cancelled")


def require_flows(config: Config, flows: Sequence[str]) -> None:
    for flow in flows:
        if flow not in config.flows:
            known = ", ".join(config.flows) or "none"
            raise ConfigurationError(f"there is no flow {flow!r}", hint=f"there are: {known}")


def require_taken(config: Config, flows: Sequence[str], tables: Sequence[Relation]) -> None:
    """Each of the flows takes some of the tables: to another one the backfill would bring nothing."""
    for flow in flows:
        taken = TablePatterns(config.flows[flow].sources)
        if not any(taken.matches(table.schema, table.name) for table in tables):
            named = ", ".join(table.qualified for table in tables)
            raise ConfigurationError(
                f"the flow {flow} does not take {named}",
                hint=f"its `from` is {', '.join(config.flows[flow].sources)}: add the table there",
            )


def _require_free(requests: Requests, tables: Sequence[str]) -> None:
    """One backfill at a time of a table: two would read the same rows."""
    for kept in requests.all():
        same = [table for table in tables if table in kept.open]
        if same:
            raise ConfigurationError(
                f"a backfill of {same[0]} is {kept.state} already: {kept.request.name}",
                hint=f"`cdcflow backfill resume {kept.request.name}` or `cancel` it",
            )


def document(config: Config, figures: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every backfill with its tables: capture's figures where it is at work, else how it ended."""
    live = {(entry["backfill"], entry["table"]): entry for entry in figures}
    found = []
    shown = Requests(Places(config.engine.state).backfills).all()
    ended = [kept for kept in shown if kept.state in ("done", "cancelled")][-SHOWN:]
    for kept in shown:
        if kept.state in ("done", "cancelled") and kept not in ended:
            continue
        request = kept.request
        tables = [_table(kept, table, live.get((request.name, table))) for table in request.tables]
        found.append(
            {
                "name": request.name,
                "state": kept.state,
                "where": request.where or None,
                "columns": list(request.columns),
                "for": list(request.flows),
                "rate_limit": request.rate,
                "replace": request.replace,
                "created": request.created,
                "tables": tables,
            }
        )
    return found


def _table(kept: Kept, table: str, live: Mapping[str, Any] | None) -> dict[str, Any]:
    outcome = kept.outcomes.get(table)
    # Figures are a moment old: what has failed since is not in them, and counts until somebody resumes it.
    going_on = live is not None and outcome is not None and outcome.resumed < kept.request.resumed
    if outcome is not None and not (outcome.state == "failed" and going_on):
        return {
            "table": table,
            "state": outcome.state,
            "rows": outcome.rows,
            "bytes": outcome.nbytes,
            "chunks": outcome.chunks,
            "estimated_rows": None,
            "share": 1.0 if outcome.state == "done" else None,
            "rate": None,
            "remaining_seconds": None,
            "ended": outcome.ended,
            "error": outcome.error or None,
            "hint": outcome.hint or None,
        }
    if live is None:
        return {"table": table, "state": "waiting", "rows": None, "share": None, "error": None, "hint": None}
    return {key: value for key, value in live.items() if key != "backfill"}

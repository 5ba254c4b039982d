"""All remedies in one script that a DBA can run with psql as it stands. Pure.

What needs a restart comes first; the script then ends by itself until the server was restarted, and goes on
when it is run again. SQL that has a price stands there as a comment.
"""

import re
from collections.abc import Iterable, Sequence
from typing import get_args

from cdcflow.model.finding import Finding, Stage
from cdcflow.source.connection import quote_literal

_TITLES: dict[Stage, str] = {
    "restart": "Settings that count after a restart of the server.",
    "settings": "Settings that count at once.",
    "role": "What the role may do.",
    "tables": "What identifies the rows of tables.",
    "publication": "What is published.",
    "slot": "The slot comes last: it needs the publication, and from then on the server keeps WAL for it.",
    "choice": "Not run, since it has a price or other ways are open. Take away the dashes to run it.",
}
_SETTING = re.compile(r"^ALTER SYSTEM SET (\w+)", re.MULTILINE)


def script(findings: Iterable[Finding], *, database: str, role: str) -> str:
    """The SQL of all findings that are not in order, with the finding above each as a comment.

    `database` is where it must be run, `role` who cdcflow connects as.
    """
    troubles = [finding for finding in findings if finding.severity != "ok"]
    lines = [
        f"-- What `cdcflow check` would mend in the database {_comment(database)}, for the role"
        f" {_comment(role)}.",
        "-- Run it with psql in that database, as a superuser, and not within one transaction.",
    ]
    if any(finding.sql for finding in troubles):
        lines += [
            r"\set ON_ERROR_STOP on",
            f"SELECT current_database() <> {quote_literal(database)} AS elsewhere \\gset",
            r"\if :elsewhere",
            f"\\warn 'this script is for the database' {_argument(database)}",
            r"\quit",
            r"\endif",
        ]
    for stage in get_args(Stage):
        lines += _stage(stage, [finding for finding in troubles if finding.sql and finding.stage == stage])
    left = [finding for finding in troubles if not finding.sql]
    if left:
        lines += ["", "-- What no SQL mends:"]
        lines += [line for finding in left for line in _words(finding)]
    if not troubles:
        lines.append("-- Everything is in order.")
    return "\n".join(lines) + "\n"


def _stage(stage: Stage, findings: Sequence[Finding]) -> list[str]:
    if not findings:
        return []
    lines = ["", f"-- {_TITLES[stage]}"]
    seen: set[str] = set()
    for finding in findings:
        lines += ["", *_words(finding)]
        # Two findings may have one remedy, and some cannot be run twice.
        sql = [] if finding.sql in seen else finding.sql.split("\n")
        seen.add(finding.sql)
        lines += [f"-- {line}" for line in sql] if stage == "choice" else sql
    if stage == "restart":
        names = ", ".join(quote_literal(name) for f in findings for name in _SETTING.findall(f.sql))
        lines += [
            "",
            "-- The server itself says whether these wait for a restart (manual: pg_file_settings).",
            "SELECT count(*) > 0 AS restart FROM pg_file_settings WHERE error IS NOT NULL",
            f"    AND name IN ({names}) \\gset",
            r"\if :restart",
            r"\warn 'now restart the server, then run this script again'",
            r"\quit",
            r"\endif",
        ]
    return lines


def _words(finding: Finding) -> list[str]:
    remedy = f"-- Remedy: {_comment(finding.remedy)}" if finding.remedy else ""
    words = f"-- {finding.severity}: {_comment(finding.subject)}: {_comment(finding.message)}"
    return [words, *([remedy] if remedy else [])]


def _comment(text: str) -> str:
    """On one line, so that no name can end the comment."""
    return " ".join(text.split())


def _argument(text: str) -> str:
    """For a psql command, whose quotes know backslashes."""
    return "'" + _comment(text).replace("\\", "\\\\").replace("'", "''") + "'"

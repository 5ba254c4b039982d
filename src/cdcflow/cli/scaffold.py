"""The text of a first configuration, from what a survey found. Decides everything, does no I/O."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from cdcflow.cli.output import size
from cdcflow.cli.survey import Survey, SurveyedTable
from cdcflow.model.patterns import all_of, exactly

#: The variable that a DSN with a password is taken from.
VARIABLE = "DATABASE_URL"

#: What YAML reads as plain text whatever it says: no word with a dot in it is one of YAML's own.
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\.([A-Za-z_][A-Za-z0-9_]*|\*)")

#: Column in which comments behind a value begin.
_COMMENT = 34


@dataclass(frozen=True)
class Plan:
    """What is to be written: `dsn` is the text for YAML (a reference or the DSN itself)."""

    survey: Survey
    schemas: Sequence[str]
    dsn: str

    @property
    def tables(self) -> tuple[SurveyedTable, ...]:
        return self.survey.within(self.schemas)

    @property
    def unidentified(self) -> tuple[SurveyedTable, ...]:
        """Left out, because publishing them would break their own updates and deletes."""
        return tuple(table for table in self.tables if not table.identified)


def configuration(plan: Plan) -> str:
    """The text of `cdcflow.yaml`."""
    survey = plan.survey
    return f"""\
# cdcflow for the database {_word(survey.database)}, PostgreSQL {survey.version}.
# `cdcflow check` tells whether everything here holds; `cdcflow run` starts it.

source:
  # Put passwords into the environment (${{NAME}}) or into a file (file:/path), never here.
  dsn: {plan.dsn}
  # Patterns of tables. "!shop.audit_*" leaves tables out; names with dots or stars need double quotes.
  tables:
{_tables(plan)}
  # `cdcflow setup` makes both; `cdcflow setup --print-sql` prints them for your DBA instead.
  publication: cdcflow
  slot: cdcflow
  # initial: read the rows that are there, too. none: begin with what changes from now on.
  backfill: initial

journal:
  # How much history is kept for new flows and for going back, once every flow has read it.
  keep: {{size: 20GB, age: 7d}}

sinks:
  warehouse: {{type: duckdb, path: warehouse.duckdb}}
  # hook: {{type: webhook, url: "https://example.com/in", secret: ${{HOOK_SECRET}}}}

# A file per flow: which tables, to which sink.
flows: flows/
"""


def warehouse_flow() -> str:
    """The text of `flows/warehouse.yaml`."""
    return """\
# Every captured table into the warehouse, which then equals the source. Ask it with `cdcflow query`.
from: ["*.*"]
to: warehouse
"""


def plain(text: str) -> str:
    """A string as YAML that is read back as exactly this: quoted where it must be, `${` escaped."""
    return text if _PLAIN.fullmatch(text) else _quoted(text.replace("${", "$${"))


def _quoted(text: str) -> str:
    """YAML's double-quoted style, with its escapes for what no file should hold (YAML 1.2, 5.7)."""
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    if character.isprintable():
        return character
    return f"\\U{ord(character):08x}"


def _tables(plan: Plan) -> str:
    lines = []
    for schema in plan.schemas:
        tables = plan.survey.within([schema])
        count = f"{len(tables)} table{'' if len(tables) == 1 else 's'}"
        lines.append(_entry(all_of(schema), f"{count}, {_summary(tables)}"))
    if not plan.schemas:
        lines.append(_entry("public.*", "no table yet"))
    if plan.unidentified:
        lines += [
            "    # These have no primary key. Once they are published, their own UPDATE and DELETE fail in",
            "    # Postgres. To capture one all the same, take its line out and give it a key, or run",
            "    # ALTER TABLE … REPLICA IDENTITY FULL; one that is only ever inserted into needs neither.",
        ]
        lines += [
            _entry("!" + exactly(table.schema, table.name), _summary([table])) for table in plan.unidentified
        ]
    return "\n".join(lines)


def _entry(pattern: str, comment: str) -> str:
    return f"    - {plain(pattern)}".ljust(_COMMENT - 1) + f" # {comment}"


def _summary(tables: Sequence[SurveyedTable]) -> str:
    rows = sum(table.rows for table in tables)
    estimated = f"about {rows:,} rows" if rows else "rows not counted yet"
    return f"{estimated}, {size(sum(table.bytes for table in tables))}"


def _word(name: str) -> str:
    """A name within a comment, which ends with its line."""
    return name if name.isprintable() else _quoted(name)

"""Generated expressions over generated rows: what a real Postgres says of each row against what we say.

Everything is equal, text by text and error by error, or was refused when it was compiled.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import psycopg
import pyarrow as pa

from cdcflow.errors import ExpressionError
from cdcflow.model import Column, Relation
from cdcflow.testing.batches import make_relation
from cdcflow.transform.expression import Frame, Scope, compile
from cdcflow.transform.expression.sqltype import builtin
from differential.generate import PRODUCERS, Generator, Made
from differential.values import COLUMNS, rows

#: Differences that a report shows; one bug makes hundreds.
SHOWN = 25


@dataclass
class Report:
    """What was compared, and every difference."""

    seed: int
    expressions: int = 0
    compared: int = 0
    values: int = 0
    errors: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    #: Rows that we refuse although Postgres has a value (forms of dates that are not read …).
    rows_refused: Counter[str] = field(default_factory=Counter)
    reached: set[str] = field(default_factory=set)
    differences: list[str] = field(default_factory=list)

    @property
    def unreached(self) -> list[str]:
        return sorted({producer.label for producer in PRODUCERS} - self.reached)

    def __str__(self) -> str:
        reached = len(PRODUCERS) - len(self.unreached)
        shown = self.differences[:SHOWN]
        return "\n".join(
            [
                f"{self.expressions:,} expressions: {self.compared:,} compared,"
                f" {self.refused.total():,} refused; {self.values:,} values equal,"
                f" {self.errors:,} errors in the same rows, {self.rows_refused.total():,} rows refused,"
                f" {len(self.differences)} differences",
                f"{reached} of {len(PRODUCERS)} variants reached"
                + (f"; not: {', '.join(self.unreached)}" if self.unreached else ""),
                *(line if len(line) < 600 else f"{line[:300]} … {line[-300:]}" for line in shown),
                f"replay with --seed {self.seed} --expressions {self.expressions}",
            ]
        )


class Judge:
    """A Postgres with the table of generated rows."""

    def __init__(self, connection: psycopg.Connection[Any], data: Sequence[Sequence[str | None]]) -> None:
        self.connection = connection
        declared = ", ".join(f"{column.name} {column.kind.declared}" for column in COLUMNS)
        connection.execute("SET timezone = 'UTC'")
        connection.execute("SET datestyle = 'ISO, MDY'")
        connection.execute("SET intervalstyle = 'postgres'")
        connection.execute("SET extra_float_digits = 3")
        connection.execute("SET bytea_output = 'hex'")
        connection.execute(f"CREATE TABLE data (id int, {declared})")
        marks = ", ".join(f"%s::text::{column.kind.declared}" for column in COLUMNS)
        for i, row in enumerate(data):
            connection.execute(f"INSERT INTO data VALUES ({i}, {marks})", row)
        names = ", ".join(column.name for column in COLUMNS)
        self.columns = self.ask(f"SELECT {names} FROM data ORDER BY id")[0]

    def ask(self, sql: str) -> tuple[list[list[str | None]], int]:
        """A query's columns as the output functions write them, and the OID of the first's type."""
        result = self.connection.pgconn.exec_(sql.encode())
        if result.status != psycopg.pq.ExecStatus.TUPLES_OK:
            raise ValueError(result.error_message.decode())
        columns = []
        for column in range(result.nfields):
            raw = [result.get_value(row, column) for row in range(result.ntuples)]
            columns.append([None if value is None else bytes(value).decode() for value in raw])
        return columns, result.ftype(0)

    def row_by_row(self, expression: str, count: int) -> list[object]:
        """The value of every row, or its error."""
        values: list[object] = []
        for row in range(count):
            try:
                (column,), _ = self.ask(f"SELECT {expression} FROM data WHERE id = {row}")
                values.append(column[0])
            except ValueError as error:
                values.append(Failure(str(error).partition("\n")[0]))
        return values


@dataclass(frozen=True)
class Failure:
    reason: str


def relation() -> Relation:
    typmods = {"numeric(12,2)": (12 << 16 | 2) + 4, "varchar(10)": 14, "char(5)": 9}
    return make_relation(
        "data",
        [Column(c.name, builtin(c.kind.key).oid, typmods.get(c.kind.declared, -1)) for c in COLUMNS],
        key=(),
    )


def check(connection: psycopg.Connection[Any], *, expressions: int, rows_each: int, seed: int) -> Report:
    """Compares that many expressions over that many rows."""
    report = Report(seed)
    r = Random(seed)
    judge = Judge(connection, rows(r, rows_each))
    table = relation()
    frame = Frame.of_columns(table, [pa.array(values, pa.string()) for values in judge.columns])
    scope = Scope(table, with_change=False)
    generator = Generator(r)
    for _ in range(expressions):
        made = generator.expression()
        report.expressions += 1
        _compare(report, judge, made, scope, frame)
    return report


def _compare(report: Report, judge: Judge, made: Made, scope: Scope, frame: Frame) -> None:
    try:
        expression = compile(made.text, scope)
    except ExpressionError as error:
        report.refused[str(error)] += 1
        return
    except Exception as error:  # noqa: BLE001 - a difference like any other
        report.differences.append(f"{made.text}: {type(error).__name__}: {error}")
        return
    theirs: Sequence[object]
    try:
        (theirs,), oid = judge.ask(f"SELECT {made.text} FROM data ORDER BY id")
        if oid != expression.type.oid:
            report.differences.append(f"{made.text}: type {expression.type.name} instead of {oid}")
            return
    except ValueError as error:
        theirs = judge.row_by_row(made.text, frame.count)
        if all(isinstance(value, Failure) for value in theirs) and "ERROR:  syntax error" in str(error):
            report.differences.append(f"{made.text}: {error}")
            return
    try:
        values, failures = expression.attempt(frame)
        texts = expression.write(values).to_pylist()
    except Exception as error:  # noqa: BLE001 - a difference like any other
        report.differences.append(f"{made.text}: {type(error).__name__}: {error}")
        return
    report.compared += 1
    equal = False
    for row, (ours, wanted) in enumerate(zip(texts, theirs, strict=True)):
        failure = failures.get(row)
        if isinstance(wanted, Failure):
            if failure is None:
                report.differences.append(f"{made.text}, row {row}: {ours!r} instead of {wanted.reason}")
                break
            report.errors += 1
        elif failure is not None:
            if "not supported" in failure or "of the form" in failure or "of a form" in failure:
                report.rows_refused[failure] += 1
                continue
            report.differences.append(f"{made.text}, row {row}: {failure} instead of {wanted!r}")
            break
        elif ours != wanted:
            report.differences.append(f"{made.text}, row {row}: {ours!r} instead of {wanted!r}")
            break
        else:
            report.values += 1
            equal = equal or wanted is not None
    else:
        if equal:
            report.reached |= set(made.used)

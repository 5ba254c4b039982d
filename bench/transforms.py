"""What a chain of steps costs by itself: filter, two computed columns, a mask and a name, in large batches
and in batches of one change; and the same rows through a function in Python.

The chain's seconds are the process's CPU time, so that the machine's other work is not in them; the function,
which runs in a process of its own, is measured by the clock. Of many runs the best counts.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cdcflow.model import Batch, Column, Op
from cdcflow.testing.batches import make_batch, make_relation
from cdcflow.testing.steps import chain, context
from cdcflow.transform import Chain

LARGE = 5_000
ONE = 1

#: numeric(12,2), as its modifier says it.
_AMOUNT = (12 << 16 | 2) + 4

ORDERS = make_relation(
    "orders",
    [
        Column("id", 20, key=True),
        Column("customer_id", 20),
        Column("status", 25),
        Column("amount", 1700, _AMOUNT),
        Column("email", 25),
        Column("note", 25),
        Column("created_at", 1184),
        Column("country", 25),
    ],
)

STEPS = (
    {"filter": "status = 'paid'"},
    {"set": {"amount_eur": "round(amount * 0.92, 2)", "region": "upper(country)"}},
    {"mask": {"email": "sha256"}},
    {"rename": {"amount": "amount_usd"}},
)

FUNCTION = """\
import hmac
from decimal import Decimal

KEY = b"the key of the bench, long enough"


def transform(change):
    new = change.new
    if new is None or new["status"] != "paid":
        return None
    new["amount_eur"] = round(new["amount"] * Decimal("0.92"), 2)
    new["region"] = new["country"].upper()
    new["email"] = hmac.digest(KEY, new["email"].encode(), "sha256").hex()
    return change
"""
SETS = {"amount_eur": "numeric(12,2)", "region": "text", "email": "text"}


@dataclass(frozen=True, slots=True)
class Cost:
    """Microseconds per change of the input, of which eight in ten pass the filter."""

    what: str
    batch: int
    microseconds: float


def measure(say: Callable[[str], None]) -> list[Cost]:
    """The chain and the function, in both sizes of batches."""
    costs: list[Cost] = []
    for size, runs in ((LARGE, 100), (ONE, 500)):
        say(f"transforms: batches of {size:,}")
        batch = changes(size)
        costs.append(Cost("chain", size, _best(chain(*STEPS), batch, runs, time.process_time)))
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "code.py").write_text(FUNCTION, encoding="utf-8")
            step = {"python": {"file": "code.py", "sets": SETS}}
            made = chain(step, around=context(base=Path(folder)))
            try:
                costs.append(Cost("python", size, _best(made, batch, max(runs // 5, 10), time.perf_counter)))
            finally:
                made.close()
    return costs


def changes(count: int) -> Batch:
    """Changes of different customers, eight in ten of them paid."""
    rows = [
        (
            Op.UPDATE if i % 2 else Op.INSERT,
            {
                "id": str(i),
                "customer_id": str(i % 1_000),
                "status": "paid" if count == 1 or i % 10 < 8 else "new",
                "amount": f"{i % 900}.{i % 90 + 10}",
                "email": f"customer{i}@example.com",
                "note": "a note of some length",
                "created_at": "2026-01-01 10:00:00+00",
                "country": "at",
            },
            None,
        )
        for i in range(count)
    ]
    return make_batch(ORDERS, rows)


def _best(made: Chain, batch: Batch, runs: int, clock: Callable[[], float]) -> float:
    made(batch)
    found = []
    for _ in range(runs):
        began = clock()
        made(batch)
        found.append(clock() - began)
    return min(found) / len(batch) * 1e6

"""Random rows for the demo's shop. The same seed gives the same rows, and among the ordinary ones are
texts that break careless copying: quotes, newlines, the word NULL, empty strings, other scripts."""

import hashlib
import random
import uuid
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any

from psycopg.types.json import Jsonb

_FIRST = (
    "Ada",
    "Björn",
    "Chloé",
    "Deniz",
    "Élodie",
    "Fatima",
    "Giorgos",
    "Hanna",
    "Iñaki",
    "Jun",
    "Kateřina",
)
_LAST = (
    "O'Neill",
    "Müller",
    "García",
    "Øst",
    "Łukasz",
    "Σταύρου",
    "田中",
    "İnan",
    "de la Cruz",
    'St. "Jo" John',
)
_CITIES = ("Reykjavík", "São Paulo", "München", "Ålesund", "北京", "Kraków", "Lyon", "Θεσσαλονίκη")
_THINGS = ("lamp", "chair", "teapot", "notebook", "scarf", "bicycle bell", "kettle", "rug", "mirror", "clock")
_LOOKS = ("oak", "brass", "blue", "hand-made", "foldable", "5″", "100% wool", "back\\slash", "two\nlines")
_TAGS = ("new", "sale", "gift", "NULL", "", 'say "hi"', "a,b", "{x}", "eco\\friendly", "été", "🎁")
_NOTES = (
    None,
    "",
    "NULL",
    "leave it at the door",
    "ring twice\nthen wait",
    "tab\there",
    "\\N",
    "it's a 'gift' 🎁",
)
_WORDS = (
    "the",
    "parcel",
    "arrived",
    "late",
    "and",
    "torn",
    "because",
    "we",
    "ordered",
    "façade",
    "naïve",
    "—",
)
_PATHS = ("/", "/cart", "/help", "/search?q=lamp%20oak", "/products/🎁")

#: Bytes of a ticket's body. Anything above 2 kB is stored out of line (manual, 66.2).
BODY = (3_000, 20_000)


class Goods:
    """Makes rows as tuples, in the column order of `sql/demo_shop.sql` without its time stamps."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 - a workload, not a secret

    def uuid(self) -> uuid.UUID:
        return uuid.UUID(int=self.random.getrandbits(128), version=4)

    def price(self) -> Decimal:
        return Decimal(self.random.randrange(99, 200_000)).scaleb(-2)

    def customer(self, identity: int) -> tuple[Any, ...]:
        draw = self.random
        name = f"{draw.choice(_FIRST)} {draw.choice(_LAST)}"
        birthday = None if draw.random() < 0.3 else date(1940, 1, 1) + timedelta(draw.randrange(25_000))
        preferences = {
            "language": draw.choice(["de", "en", "pt-BR", "日本語"]),
            "big": draw.randrange(2**53, 2**60),
            "colour": draw.choice([None, "blue", 'quo"te']),
            "ratio": draw.random(),
        }
        newsletter = draw.random() < 0.5
        return (
            identity,
            self.uuid(),
            f"c{identity}@example.com",
            name,
            newsletter,
            birthday,
            Jsonb(preferences),
        )

    def product(self, sku: str) -> tuple[Any, ...]:
        draw = self.random
        name = f"{draw.choice(_LOOKS)} {draw.choice(_THINGS)}"
        tags = draw.sample(_TAGS, draw.randrange(0, 4))
        price = self.price()
        # Unconstrained numeric: any number of digits, zeros at the end included.
        cost = None if draw.random() < 0.2 else price * Decimal("0.610") / Decimal(draw.choice([1, 3, 7]))
        weight = draw.choice([None, 0.1, 1 / 3, 0.5 + draw.random() * 40])
        return (sku, name, tags, price, cost, weight, draw.randrange(500), draw.random() < 0.9)

    def order(self, identity: int, customer: int, total: Decimal) -> tuple[Any, ...]:
        draw = self.random
        address = {
            "street": f"{draw.choice(_LOOKS)} street {draw.randrange(300)}",
            "city": draw.choice(_CITIES),
        }
        known = None if draw.random() < 0.1 else Jsonb(address)
        gift, note = draw.random() < 0.1, draw.choice(_NOTES)
        currency = draw.choice(["EUR", "USD", "ISK"])
        return (identity, self.uuid(), customer, "new", total, currency, gift, known, note)

    def body(self) -> str:
        size = self.random.randrange(*BODY)
        return " ".join(self.random.choices(_WORDS, k=size // 5))

    def ticket(self, identity: int, customer: int) -> tuple[Any, ...]:
        draw = self.random
        labels = (
            None if draw.random() < 0.2 else [draw.choice([*_TAGS, None]) for _ in range(draw.randrange(4))]
        )
        digest = None if draw.random() < 0.5 else hashlib.sha256(draw.randbytes(8)).digest()
        subject = f"{draw.choice(_LOOKS)} {draw.choice(_THINGS)}: {draw.choice(_WORDS)}"
        return (identity, customer, subject, self.body(), "open", draw.randrange(1, 6), labels, digest)

    def labels(self) -> list[str]:
        return self.random.sample(_TAGS, 2)

    def response(self) -> timedelta:
        return timedelta(microseconds=self.random.randrange(10**6, 3 * 10**11))

    def view(self, customer: int | None) -> tuple[Any, ...]:
        """Without its time; coarse enough that equal rows come up."""
        draw = self.random
        referrer = draw.choice([None, "", "https://example.com/?a=1&b='2'"])
        return (customer, draw.choice(_PATHS), referrer, draw.choice([None, 100, 250, 1_000]))

    def offer(self, sku: str) -> tuple[Any, ...]:
        draw = self.random
        return (sku, draw.choice([5, 10, 25, 50]), time(draw.randrange(24), draw.choice([0, 30]), 0, 500))

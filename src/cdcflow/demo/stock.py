"""What the demo's shop holds, as far as its workload must know: identities, and who belongs to whom.

Changed only after a commit, so that it never names a row that was rolled back.
"""

import random
from collections.abc import Iterator
from typing import Generic, TypeVar

Identity = TypeVar("Identity", int, str)


class Pool(Generic[Identity]):
    """Identities to draw from at random; adding, removing and drawing take the same time at any size."""

    def __init__(self) -> None:
        self._members: list[Identity] = []
        self._places: dict[Identity, int] = {}

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Identity]:
        return iter(self._members)

    def add(self, member: Identity) -> None:
        if member not in self._places:
            self._places[member] = len(self._members)
            self._members.append(member)

    def discard(self, member: Identity) -> None:
        place = self._places.pop(member, None)
        if place is None:
            return
        last = self._members.pop()
        if last != member:
            self._members[place] = last
            self._places[last] = place

    def draw(self, generator: random.Random) -> Identity:
        """Raises IndexError where there is none."""
        return generator.choice(self._members)


class Stock:
    """The identities of the shop's rows."""

    def __init__(self) -> None:
        self.customers: Pool[int] = Pool()
        self.products: Pool[str] = Pool()
        #: Orders that are not delivered yet, and how many lines each has.
        self.open_orders: Pool[int] = Pool()
        self.lines: dict[int, int] = {}
        self.open_tickets: Pool[int] = Pool()
        self._orders_of: dict[int, list[int]] = {}
        self._tickets_of: dict[int, list[int]] = {}

    def add_order(self, order: int, customer: int, lines: int) -> None:
        self.open_orders.add(order)
        self.lines[order] = lines
        self._orders_of.setdefault(customer, []).append(order)

    def add_ticket(self, ticket: int, customer: int) -> None:
        self.open_tickets.add(ticket)
        self._tickets_of.setdefault(customer, []).append(ticket)

    def close_order(self, order: int) -> None:
        """Delivered or gone: nothing happens to it any more."""
        self.open_orders.discard(order)
        self.lines.pop(order, None)

    def remove_customer(self, customer: int) -> None:
        """With everything that refers to the customer, as the foreign keys do."""
        self.customers.discard(customer)
        for order in self._orders_of.pop(customer, ()):
            self.close_order(order)
        for ticket in self._tickets_of.pop(customer, ()):
            self.open_tickets.discard(ticket)

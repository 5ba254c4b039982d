"""A steady random workload on the demo's shop: real transactions of several statements, of every kind that
a copy can get wrong, and some that are rolled back.

The same seed on the same shop does the same; each kind of transaction comes up once before chance decides.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

import psycopg

from cdcflow.demo.goods import Goods
from cdcflow.demo.shop import (
    INSERT_CUSTOMER,
    INSERT_ITEM,
    INSERT_OFFER,
    INSERT_ORDER,
    INSERT_PRODUCT,
    INSERT_TICKET,
    INSERT_VIEW,
    OFFERS,
    ORDERS,
    PRODUCTS,
    TICKETS,
    Connection,
    basket,
    sku,
    total,
)
from cdcflow.demo.stock import Stock

#: What the stock must learn once a transaction has committed.
Afterwards = Callable[[], None]

#: One transaction in so many is rolled back after all its statements.
ROLLED_BACK = 25
#: Seconds that the workload may fall behind its rate before it stops trying to catch up.
SLACK = 1.0
#: A rate that does not tire a small machine which also runs the server, the engine and the warehouse.
RATE = 50.0


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of transaction and how often it comes up against the others."""

    weight: int
    run: Callable[["Shopping"], Afterwards]


class Shopping:
    """The transactions, one method each. A method runs its statements and returns what the stock must
    learn when they are committed."""

    def __init__(self, connection: Connection, goods: Goods, stock: Stock) -> None:
        self._connection = connection
        self._goods = goods
        self._stock = stock
        self._draw = goods.random
        self._last_customer = max(stock.customers, default=0)
        self._last_order = ORDERS
        self._last_ticket = TICKETS
        self._last_product = PRODUCTS

    def transact(self, kind: Kind) -> bool:
        """Runs a transaction of this kind; says whether it was committed."""
        commit = self._draw.randrange(ROLLED_BACK) != 0
        learn = _nothing
        with self._connection.transaction(force_rollback=not commit):
            learn = kind.run(self)
        if commit:
            learn()
        return commit

    def sign_up(self) -> Afterwards:
        self._last_customer += 1
        customer = self._last_customer
        self._connection.execute(INSERT_CUSTOMER, self._goods.customer(customer))
        self._connection.execute(INSERT_VIEW, self._goods.view(customer))
        return lambda: self._stock.customers.add(customer)

    def order(self) -> Afterwards:
        self._last_order += 1
        order, customer = self._last_order, self._stock.customers.draw(self._draw)
        items = basket(self._goods, self._stock)
        self._connection.execute(INSERT_ORDER, self._goods.order(order, customer, total(items)))
        with self._connection.cursor() as cursor:
            cursor.executemany(INSERT_ITEM, [(order, line, *item) for line, item in enumerate(items, 1)])
        # In order of the key, as everybody must take row locks.
        for name, quantity, _ in sorted(items):
            change = "UPDATE products SET stock = stock - %s, updated_at = now() WHERE sku = %s"
            self._connection.execute(change, (quantity, name))
        return lambda: self._stock.add_order(order, customer, len(items))

    def pay(self) -> Afterwards:
        order = self._stock.open_orders.draw(self._draw)
        change = "UPDATE orders SET status = 'paid', paid_at = now() WHERE id = %s RETURNING customer_id"
        row = self._connection.execute(change, (order,)).fetchone()
        if row is not None:
            self._connection.execute("UPDATE customers SET credit = credit + 1.50 WHERE id = %s", row)
        return _nothing

    def deliver(self) -> Afterwards:
        order = self._stock.open_orders.draw(self._draw)
        self._connection.execute("UPDATE orders SET status = 'shipped', note = NULL WHERE id = %s", (order,))
        self._connection.execute("UPDATE orders SET status = 'delivered' WHERE id = %s", (order,))
        return lambda: self._stock.close_order(order)

    def cancel(self) -> Afterwards:
        order = self._stock.open_orders.draw(self._draw)
        self._connection.execute("DELETE FROM orders WHERE id = %s", (order,))
        return lambda: self._stock.close_order(order)

    def add_to_order(self) -> Afterwards:
        """Lines move from one order to another: the key of each changes."""
        first, second = (self._stock.open_orders.draw(self._draw) for _ in range(2))
        if first == second:
            return _nothing
        move = "UPDATE order_items SET order_id = %s, line_no = line_no + %s WHERE order_id = %s"
        lines, moved = self._stock.lines[first], self._stock.lines[second]
        self._connection.execute(move, (first, lines, second))
        change = "UPDATE orders SET total = total + (SELECT total FROM orders WHERE id = %s) WHERE id = %s"
        self._connection.execute(change, (second, first))
        self._connection.execute("DELETE FROM orders WHERE id = %s", (second,))

        def learn() -> None:
            self._stock.close_order(second)
            self._stock.lines[first] = lines + moved

        return learn

    def change_prices(self) -> Afterwards:
        names = sorted({self._stock.products.draw(self._draw) for _ in range(5)})
        change = "UPDATE products SET price = round(price * %s, 2), updated_at = now() WHERE sku = ANY(%s)"
        self._connection.execute(change, (self._draw.choice([Decimal("0.95"), Decimal("1.05")]), names))
        return _nothing

    def rename_product(self) -> Afterwards:
        """The key of a product changes, and with it every row that refers to it."""
        self._last_product += 1
        old, new = self._stock.products.draw(self._draw), sku(self._last_product)
        self._connection.execute("UPDATE products SET sku = %s WHERE sku = %s", (new, old))

        def learn() -> None:
            self._stock.products.discard(old)
            self._stock.products.add(new)

        return learn

    def replace_product(self) -> Afterwards:
        """A key is given up and taken again within one transaction."""
        self._last_product += 1
        name = sku(self._last_product)
        self._connection.execute(INSERT_PRODUCT, self._goods.product(name))
        self._connection.execute("DELETE FROM products WHERE sku = %s", (name,))
        self._connection.execute(INSERT_PRODUCT, self._goods.product(name))
        return lambda: self._stock.products.add(name)

    def open_ticket(self) -> Afterwards:
        self._last_ticket += 1
        ticket, customer = self._last_ticket, self._stock.customers.draw(self._draw)
        self._connection.execute(INSERT_TICKET, self._goods.ticket(ticket, customer))
        return lambda: self._stock.add_ticket(ticket, customer)

    def work_on_ticket(self) -> Afterwards:
        """Leaves the large body alone."""
        ticket = self._stock.open_tickets.draw(self._draw)
        change = "UPDATE support_tickets SET labels = %s, first_response = %s WHERE id = %s"
        self._connection.execute(change, (self._goods.labels(), self._goods.response(), ticket))
        change = "UPDATE support_tickets SET status = 'answered', priority = 1 WHERE id = %s"
        self._connection.execute(change, (ticket,))
        return _nothing

    def close_ticket(self) -> Afterwards:
        ticket = self._stock.open_tickets.draw(self._draw)
        change = "UPDATE support_tickets SET status = 'closed', closed_at = now() WHERE id = %s"
        self._connection.execute(change, (ticket,))
        if self._draw.random() < 0.3:
            change = "UPDATE support_tickets SET body = %s WHERE id = %s"
            self._connection.execute(change, (self._goods.body(), ticket))
        return lambda: self._stock.open_tickets.discard(ticket)

    def browse(self) -> Afterwards:
        customer = self._stock.customers.draw(self._draw)
        with self._connection.cursor() as cursor:
            cursor.executemany(INSERT_VIEW, [self._goods.view(customer) for _ in range(4)])
        return _nothing

    def forget_views(self) -> Afterwards:
        """Updates and deletes in a table without a key, rows that are equal in everything among them."""
        change = "UPDATE page_views SET customer_id = NULL WHERE customer_id = %s"
        self._connection.execute(change, (self._stock.customers.draw(self._draw),))
        change = "DELETE FROM page_views WHERE ctid IN (SELECT ctid FROM page_views WHERE path = '/' LIMIT 3)"
        self._connection.execute(change)
        return _nothing

    def remove_customer(self) -> Afterwards:
        customer = self._stock.customers.draw(self._draw)
        self._connection.execute("DELETE FROM page_views WHERE customer_id = %s", (customer,))
        self._connection.execute("DELETE FROM customers WHERE id = %s", (customer,))
        return lambda: self._stock.remove_customer(customer)

    def new_offers(self) -> Afterwards:
        self._connection.execute("TRUNCATE flash_offers")
        chosen = self._draw.sample(sorted(self._stock.products), OFFERS)
        with self._connection.cursor() as cursor:
            cursor.executemany(INSERT_OFFER, [self._goods.offer(name) for name in chosen])
        return _nothing


KINDS = (
    Kind(10, Shopping.sign_up),
    Kind(30, Shopping.order),
    Kind(20, Shopping.pay),
    Kind(15, Shopping.deliver),
    Kind(3, Shopping.cancel),
    Kind(3, Shopping.add_to_order),
    Kind(6, Shopping.change_prices),
    Kind(2, Shopping.rename_product),
    Kind(1, Shopping.replace_product),
    Kind(5, Shopping.open_ticket),
    Kind(10, Shopping.work_on_ticket),
    Kind(4, Shopping.close_ticket),
    Kind(25, Shopping.browse),
    Kind(3, Shopping.forget_views),
    Kind(2, Shopping.remove_customer),
    Kind(1, Shopping.new_offers),
)
_WEIGHTS = [kind.weight for kind in KINDS]


class Workload:
    """Runs transactions at `rate` per second in a thread of its own, on a connection of its own, until
    `stop`. Where the server is slower than the rate, its own pace is the rate."""

    def __init__(self, dsn: str, goods: Goods, stock: Stock, *, rate: float = RATE) -> None:
        self._dsn = dsn
        self._goods = goods
        self._stock = stock
        self._rate = rate
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="workload", daemon=True)
        self.committed = 0
        self.rolled_back = 0
        #: What ended the workload before `stop`.
        self.error: Exception | None = None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns when the transaction in progress is over; nothing happens when it does not run."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        try:
            with psycopg.connect(
                self._dsn, autocommit=True, application_name="cdcflow demo shop"
            ) as connection:
                self._shop(connection)
        except Exception as error:  # noqa: BLE001 - told to who watches, in another thread
            self.error = error

    def _shop(self, connection: Connection) -> None:
        shopping = Shopping(connection, self._goods, self._stock)
        draw = self._goods.random
        first = draw.sample(KINDS, len(KINDS))
        due = time.monotonic()
        while not self._stopping.wait(max(due - time.monotonic(), 0.0)):
            kind = first.pop() if first else draw.choices(KINDS, _WEIGHTS)[0]
            if shopping.transact(kind):
                self.committed += 1
            else:
                self.rolled_back += 1
            due = max(due + 1 / self._rate, time.monotonic() - SLACK)

"""The demo's shop as it is before the engine starts: its tables, filled, so that the backfill matters."""

from decimal import Decimal
from typing import Any

import psycopg

from cdcflow import sql
from cdcflow.demo.goods import Goods
from cdcflow.demo.stock import Stock

Connection = psycopg.Connection[Any]

TABLES = (
    "customers",
    "products",
    "orders",
    "order_items",
    "support_tickets",
    "page_views",
    "flash_offers",
)

#: Enough for a backfill that is seen, few enough to be there at once.
CUSTOMERS = 500
PRODUCTS = 120
ORDERS = 800
TICKETS = 120
VIEWS = 2_000
OFFERS = 12

#: Columns beyond the values given take their defaults (manual, INSERT).
INSERT_CUSTOMER = "INSERT INTO customers VALUES (%s, %s, %s, %s, %s, %s, %s)"
INSERT_PRODUCT = "INSERT INTO products VALUES (%s, %s, %s, %s, %s, %s, %s, %s)"
INSERT_ORDER = "INSERT INTO orders VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)"
INSERT_ITEM = "INSERT INTO order_items VALUES (%s, %s, %s, %s, %s)"
INSERT_TICKET = "INSERT INTO support_tickets VALUES (%s, %s, %s, %s, %s, %s, %s, %s)"
INSERT_VIEW = "INSERT INTO page_views VALUES (%s, %s, %s, %s)"
INSERT_OFFER = "INSERT INTO flash_offers VALUES (%s, %s, %s)"


def sku(number: int) -> str:
    return f"SKU-{number:05}"


def open_shop(connection: Connection, goods: Goods) -> Stock:
    """Makes the tables in an empty database and fills them in one transaction."""
    stock = Stock()
    draw = goods.random
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute(sql.load("demo_shop"))
        for number in range(1, CUSTOMERS + 1):
            stock.customers.add(number)
        cursor.executemany(INSERT_CUSTOMER, [goods.customer(number) for number in stock.customers])
        for number in range(1, PRODUCTS + 1):
            stock.products.add(sku(number))
        products = [goods.product(name) for name in stock.products]
        cursor.executemany(INSERT_PRODUCT, products)

        orders, items = [], []
        for number in range(1, ORDERS + 1):
            customer = stock.customers.draw(draw)
            bought = basket(goods, stock)
            orders.append(goods.order(number, customer, total(bought)))
            items += [(number, line, *item) for line, item in enumerate(bought, 1)]
            stock.add_order(number, customer, len(bought))
        cursor.executemany(INSERT_ORDER, orders)
        cursor.executemany(INSERT_ITEM, items)

        tickets = []
        for number in range(1, TICKETS + 1):
            customer = stock.customers.draw(draw)
            tickets.append(goods.ticket(number, customer))
            stock.add_ticket(number, customer)
        cursor.executemany(INSERT_TICKET, tickets)
        cursor.executemany(INSERT_VIEW, [goods.view(stock.customers.draw(draw)) for _ in range(VIEWS)])
        offered = draw.sample(list(stock.products), OFFERS)
        cursor.executemany(INSERT_OFFER, [goods.offer(name) for name in offered])
    return stock


Item = tuple[str, int, Decimal]


def basket(goods: Goods, stock: Stock) -> list[Item]:
    """`(sku, quantity, unit price)` of what somebody buys."""
    draw = goods.random
    return [
        (stock.products.draw(draw), draw.randrange(1, 5), goods.price()) for _ in range(draw.randrange(1, 6))
    ]


def total(items: list[Item]) -> Decimal:
    return sum((quantity * price for _, quantity, price in items), Decimal("0.00"))

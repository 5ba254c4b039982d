"""A database whose characters are those of UTF-8 with the character classes of `C.UTF-8`."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from cdcflow.testing.postgres import AnyServer


@contextmanager
def utf8_database(server: AnyServer) -> Iterator[psycopg.Connection[Any]]:
    """A connection to a fresh database, which is dropped afterwards."""
    name = f"differential_{secrets.token_hex(6)}"
    if server.version >= 17:
        locale = "LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8' LOCALE 'C'"
    else:
        locale = "LC_COLLATE 'C' LC_CTYPE 'C.UTF-8'"
    server.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8' {locale}")
    connection = psycopg.connect(server.dsn(name), autocommit=True)
    try:
        yield connection
    finally:
        connection.close()
        server.execute(f"DROP DATABASE {name} WITH (FORCE)")

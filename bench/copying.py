"""The yardstick of a backfill: COPY of a table, or of a span of its pages, to nothing.

    python bench/copying.py DSN TABLE FIRST_PAGE LAST_PAGE

A program of its own, without a word of cdcflow in it. Prints how many rows and bytes came, as JSON.
"""

import json
import sys

from psycopg import pq


def copy(dsn: str, table: str, first: int, last: int) -> dict[str, int]:
    connection = pq.PGconn.connect(dsn.encode())
    if connection.status != pq.ConnStatus.OK:
        raise SystemExit(connection.error_message.decode())
    query = f"COPY (SELECT * FROM {table} WHERE ctid >= '({first},0)' AND ctid < '({last},0)') TO STDOUT"
    result = connection.exec_(query.encode())
    if result.status != pq.ExecStatus.COPY_OUT:
        raise SystemExit(result.error_message.decode())
    get = connection.get_copy_data
    rows = size = 0
    while (length := get(0)[0]) > 0:
        rows += 1
        size += length
    return {"rows": rows, "bytes": size}


if __name__ == "__main__":
    print(json.dumps(copy(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))

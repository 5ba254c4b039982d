"""The yardstick: reads a slot with nothing but `psycopg.pq` and throws every message away.

    python bench/drain.py DSN SLOT PUBLICATION END

A program of its own, without a word of cdcflow in it. It reads until the server says that the WAL up to the
LSN `END` (a decimal number) holds nothing more, and prints one line of JSON.
"""

import json
import select
import struct
import sys
import time

from psycopg import pq


def drain(dsn: str, slot: str, publication: str, end: int) -> dict[str, float]:
    """When it ended, in seconds since 1970; CopyData messages and their bytes."""
    connection = pq.PGconn.connect(f"{dsn}?replication=database".encode())
    if connection.status != pq.ConnStatus.OK:
        raise SystemExit(connection.error_message.decode())
    command = (
        f"START_REPLICATION SLOT {slot} LOGICAL 0/0 (proto_version '1', publication_names '{publication}')"
    )
    result = connection.exec_(command.encode())
    if result.status != pq.ExecStatus.COPY_BOTH:
        raise SystemExit(result.error_message.decode())
    connection.nonblocking = 1
    poll = select.poll()
    poll.register(connection.socket, select.POLLIN)
    get, wait, consume = connection.get_copy_data, poll.poll, connection.consume_input
    messages = size = 0
    while True:
        length, data = get(1)
        if length > 0:
            messages += 1
            size += length
            # Primary keepalive: 'k', the WAL's end so far, … (manual, 55.4 "Streaming Replication Protocol").
            if data[0] == 107 and struct.unpack_from(">Q", data, 1)[0] >= end:
                break
        elif length == 0:
            wait()
            consume()
        else:
            raise SystemExit("the server ended the stream")
    return {"ended": time.time(), "messages": messages, "bytes": size}


if __name__ == "__main__":
    print(json.dumps(drain(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))))

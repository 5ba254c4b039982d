"""The rows of a COPY, out of libpq in blocks that a decoder takes.

libpq gives row by row, and psycopg makes an object of each: at a million rows a second on the server's side
that is what a copy would spend its time with. `_copying.pyx` asks the very libpq that psycopg has loaded,
in a loop of its own; where it is not there, the loop is here.
"""

import contextlib
import ctypes
import sys
from collections.abc import Generator, Iterator

import psycopg
from psycopg import pq

from cdcflow.decode import implementation

try:
    from cdcflow.source._copying import Rows as Compiled
except ImportError:  # no compiler was there
    Compiled = None

#: Bytes of a block: the processor's cache holds it until it is decoded.
BLOCK = 256 << 10

_ERROR = -2

_Block = bytes | memoryview


def copy_out(pgconn: pq.abc.PGconn, query: bytes, size: int = BLOCK) -> Generator[_Block, None, None]:
    """The rows that a `COPY … TO STDOUT` sends: whole ones, `size` bytes of them and a little more at once. A
    block must not be used any more when the next one is asked for.

    Who asks for no more and closes the iterator ends the COPY. Raises psycopg.Error.
    """
    result = pgconn.exec_(query)
    if result.status != pq.ExecStatus.COPY_OUT:
        raise failed(result)
    try:
        yield from _blocks(pgconn, size)
    except GeneratorExit:
        _cancel(pgconn)
        raise
    result = pgconn.get_result() or result
    while pgconn.get_result() is not None:
        pass
    if result.status != pq.ExecStatus.COMMAND_OK:
        raise failed(result)


def failed(result: pq.abc.PGresult) -> psycopg.Error:
    """The server's error as psycopg knows it."""
    state = (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()
    message = (result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or result.error_message).decode(
        errors="replace"
    )
    try:
        kind: type[psycopg.Error] = psycopg.errors.lookup(state)
    except KeyError:
        kind = psycopg.OperationalError if not state else psycopg.DatabaseError
    return kind(message.strip() or "the connection broke")


def _cancel(pgconn: pq.abc.PGconn) -> None:
    """Ends the COPY under way, and reads what of it still comes."""
    # Its rows may all have come, or the connection be gone: who uses it next is told so.
    with contextlib.suppress(psycopg.Error):
        pgconn.get_cancel().cancel()
        while pgconn.get_copy_data(0)[0] >= 0:
            pass
    while pgconn.get_result() is not None:
        pass


def _blocks(pgconn: pq.abc.PGconn, size: int) -> Iterator[_Block]:
    addresses = _addresses(pgconn)
    return _joined(pgconn, size) if addresses is None else _gathered(pgconn, size, addresses)


def _gathered(pgconn: pq.abc.PGconn, size: int, addresses: tuple[int, int, int]) -> Iterator[memoryview]:
    rows = Compiled(*addresses)
    while rows.read(size):
        with memoryview(rows) as block:
            yield block
        if rows.answer < 0:
            break
    if rows.answer == _ERROR:
        raise psycopg.OperationalError(pgconn.error_message.decode(errors="replace").strip())


def _joined(pgconn: pq.abc.PGconn, size: int) -> Iterator[bytes]:
    pending: list[memoryview] = []
    held = 0
    while True:
        length, row = pgconn.get_copy_data(0)
        if length > 0:
            pending.append(row)
            held += length
        if held >= size or (length < 0 and held):
            yield b"".join(pending)
            pending.clear()
            held = 0
        if length < 0:
            return


def _addresses(pgconn: pq.abc.PGconn) -> tuple[int, int, int] | None:
    """Those of PQgetCopyData and PQfreemem, in the libpq that the connection is of, and of the connection."""
    file = getattr(sys.modules.get(type(pgconn).__module__), "__file__", None)
    connection = getattr(pgconn, "pgconn_ptr", None)
    if Compiled is None or implementation() == "py" or pq.__impl__ == "python" or not file or not connection:
        return None
    try:
        # Loaded already: symbols are looked for in what it depends on, too.
        library = ctypes.CDLL(file)
        functions = (library.PQgetCopyData, library.PQfreemem)
    except (OSError, AttributeError):
        return None  # linked into it, and not for others
    get, release = (ctypes.cast(function, ctypes.c_void_p).value for function in functions)
    return (get, release, connection) if get and release else None

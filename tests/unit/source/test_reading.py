"""What an error at a chunk means for its backfill."""

import psycopg
import pytest

from cdcflow.errors import SourceUnavailable
from cdcflow.source.reading import outcome


@pytest.mark.parametrize(
    ("error", "status"),
    [
        # Whichever table it was, of the whole publication: the chunk's own is looked up anew.
        (psycopg.errors.InternalError_("could not open relation with OID 24616"), "rewritten"),
        (psycopg.errors.InternalError_("cache lookup failed for relation 24616"), "rewritten"),
        (psycopg.errors.UndefinedTable('relation "public.t" does not exist'), "rewritten"),
        (psycopg.errors.InternalError_("invalid memory alloc request size 1073741824"), "gone"),
        (psycopg.errors.DivisionByZero("division by zero"), "gone"),
        (psycopg.errors.InsufficientPrivilege("permission denied for table t"), "gone"),
        (psycopg.errors.LockNotAvailable("canceling statement due to lock timeout"), "wait"),
        (psycopg.OperationalError("the connection is closed"), "unavailable"),
        (SourceUnavailable("the server starts"), "unavailable"),
    ],
)
def test_what_an_error_means_for_the_backfill(error: Exception, status: str) -> None:
    assert outcome(error)["status"] == status

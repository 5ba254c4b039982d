"""What a DuckDB error means to the engine: worth waiting for, or a person's business."""

import duckdb

from cdcflow.errors import DeliveryError, Permanent, Transient

#: After these DuckDB refuses every use of all that it has open.
_FATAL = (duckdb.FatalException, duckdb.InternalException)
#: What it says where a checkpoint has failed, for want of disk or memory: it refuses every use of the file.
_INVALIDATED = "has been invalidated"

_NO_MEMORY = ("failed to allocate", "failed to pin")
_MORE_MEMORY = (
    "raise the sink's `memory_limit`: changes all over a large table need more than those in one place"
)

#: Errors whose messages speak of names and files. Others may quote a value.
_QUOTABLE = (
    duckdb.BinderException,
    duckdb.CatalogException,
    duckdb.ConnectionException,
    duckdb.NotImplementedException,
    duckdb.PermissionException,
)


def translated(error: duckdb.Error, doing: str) -> DeliveryError:
    """The delivery error for what DuckDB said while `doing`; never with a value in it."""
    text = str(error).partition("\n")[0]
    if is_fatal(error):
        return Transient(
            f"{doing}: DuckDB gave the database up, it will be opened anew: {text}",
            hint=_MORE_MEMORY
            if any(words in text for words in _NO_MEMORY)
            else "check the disk's free space",
        )
    if is_locked(error):
        return Transient(f"{doing}: another process has the file open: {text}", hint="close it there")
    if isinstance(error, duckdb.ResourceInUseException):
        # A query that has not ended yet holds the database that was given up.
        return Transient(f"{doing}: {text}", hint="wait until the queries under way have ended")
    if "not a valid DuckDB database" in text:
        return Permanent(f"{doing}: {text}", hint="move the file away, or name another `path`")
    if isinstance(error, duckdb.IOException):
        return Transient(f"{doing}: {text}", hint="check the disk's free space and the file's permissions")
    if isinstance(error, duckdb.OutOfMemoryException):
        # Perhaps to somebody's query, which shares it and will end.
        return Transient(f"{doing}: {text}", hint=_MORE_MEMORY)
    if isinstance(error, duckdb.TransactionException):
        return Transient(f"{doing}: {text}", hint="check the disk's free space")
    if isinstance(error, _QUOTABLE):
        return Permanent(f"{doing}: {text}")
    return Permanent(f"{doing}: {type(error).__name__}, whose message may hold values")


def is_fatal(error: duckdb.Error) -> bool:
    """Whether the database is of no use until it is opened anew. What was committed is safe."""
    return isinstance(error, _FATAL) or _INVALIDATED in str(error)


def is_locked(error: duckdb.Error) -> bool:
    """Whether the file is open in another process."""
    return isinstance(error, duckdb.IOException) and "could not set lock" in str(error).lower()

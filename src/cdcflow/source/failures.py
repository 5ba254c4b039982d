"""What the server or libpq said, turned into an error with a remedy. Pure.

A failure to connect has no SQLSTATE that libpq would tell, so its text decides, which is libpq's own or
the server's in English. What is not recognised (a server that speaks another language) is passed on as
it is and counts as passing, so that capture goes on trying.
"""

import re
from typing import NamedTuple

from psycopg import pq

from cdcflow.errors import CdcflowError, ConfigurationError, SourceError, SourceUnavailable

_DSN_HINT = (
    "write postgresql://user:password@host:5432/database, with special characters percent-encoded (@ is %40),"
    " or key=value pairs as libpq takes them"
)
_TLS_HINT = "check sslmode, sslrootcert and the host name in the dsn against the server's certificate"


class _Cause(NamedTuple):
    pattern: str
    kind: type[CdcflowError]
    message: str
    hint: str


#: First match wins. `{where}` is the DSN without its password, `{0}`, `{1}` … the pattern's groups,
#: `{text}` what was said.
_CAUSES = (
    _Cause(
        r"password authentication failed for user \"(.*?)\"",
        SourceError,
        "{where} refuses the password of user {0!r}",
        "check source.dsn (special characters of a URI's password are percent-encoded), PGPASSWORD and the"
        " passfile",
    ),
    _Cause(
        r"no password supplied|password is empty",
        SourceError,
        "{where} asks for a password and there is none",
        "put it into source.dsn, as ${DATABASE_URL} or file:/path, or into the passfile",
    ),
    _Cause(
        r"no pg_hba\.conf entry for|pg_hba\.conf rejects",
        SourceError,
        "{where} lets this client in by no line of its pg_hba.conf: {text}",
        "add a line for this user, database and address; logical replication needs the database's own line,"
        " not one for `replication`",
    ),
    _Cause(
        r"database \"(.*?)\" does not exist",
        SourceError,
        "there is no database {0!r} at {where}",
        "correct the database's name in source.dsn",
    ),
    _Cause(
        r"role \"(.*?)\" (does not exist|is not permitted to log in)",
        SourceError,
        "the role {0!r} {1} at {where}",
        "correct the user in source.dsn, or let the DBA create it: CREATE ROLE … LOGIN REPLICATION",
    ),
    _Cause(
        r"must be superuser or replication role to start walsender|permission denied to start WAL sender",
        SourceError,
        "the user of {where} lacks the REPLICATION privilege",
        "ALTER ROLE … REPLICATION (on Amazon RDS: GRANT rds_replication TO …)",
    ),
    _Cause(
        r"exceeds \"?max_wal_senders",
        SourceUnavailable,
        "{where} has no free WAL sender",
        "raise max_wal_senders and restart the server, or end a replication connection that nobody needs",
    ),
    _Cause(
        r"too many clients already|remaining connection slots are reserved|too many connections for",
        SourceUnavailable,
        "{where} takes no more connections: {text}",
        "close connections that nobody needs, or raise max_connections or the role's CONNECTION LIMIT",
    ),
    _Cause(
        r"database system is (starting up|shutting down|in recovery mode|not yet accepting connections)"
        r"|not accepting connections",
        SourceUnavailable,
        "{where} does not take connections now: {text}",
        "wait until the server is up",
    ),
    _Cause(
        r"unsupported startup parameter|unrecognized configuration parameter",
        SourceError,
        "{where} does not take the session's settings: {text}",
        "connect to PostgreSQL itself and not through a pooler, which replication does not pass; a server"
        " older than 14 is too old",
    ),
    _Cause(
        r"(?:could not translate host name|failed to resolve host) [\"'](.*?)[\"']",
        SourceUnavailable,
        "the host name {0!r} cannot be resolved",
        "check the host in source.dsn and the name service of this machine",
    ),
    _Cause(
        r"Connection refused",
        SourceUnavailable,
        "nothing listens at {where}",
        "check host and port in source.dsn, that the server runs, and its listen_addresses",
    ),
    _Cause(
        r"No such file or directory\s+Is the server running locally",
        SourceUnavailable,
        "no server listens on the socket of {where}",
        "check that the server runs, or give a host in source.dsn",
    ),
    _Cause(
        r"timeout expired|timed out|No route to host|[Nn]etwork is unreachable",
        SourceUnavailable,
        "{where} cannot be reached: {text}",
        "check host and port in source.dsn, the network and firewalls on the way",
    ),
    _Cause(
        r"SSL|certificate|TLS",
        SourceError,
        "no trusted encrypted connection to {where}: {text}",
        _TLS_HINT,
    ),
    _Cause(
        r"definition of service \"(.*?)\" not found",
        ConfigurationError,
        "the service {0!r} of source.dsn is in no pg_service.conf",
        "set PGSERVICEFILE, or write the connection out",
    ),
)
#: What libpq puts before the reason of each address it tried, and the severity that a server adds.
_PREFIX = re.compile(r"(?:connection failed: )?connection to server (?:at|on socket) .*? failed: |FATAL:\s+")


def connecting(text: str, where: str) -> CdcflowError:
    """The error for a failed attempt to connect to `where`, of which libpq says `text`."""
    plain = " ".join(text.split())
    option = re.search(
        r"invalid integer value .*? for connection option \"(\w+)\"|invalid (\w+) value", plain
    )
    if option:
        return wrong_value(option[1] or option[2])
    for cause in _CAUSES:
        match = re.search(cause.pattern, plain)
        if match:
            message = cause.message.format(*match.groups(), where=where, text=_short(plain))
            return cause.kind(message, hint=cause.hint)
    return SourceUnavailable(
        f"no connection to {where}: {_short(plain)}", hint="the server's log may say more"
    )


def _short(plain: str) -> str:
    return _PREFIX.sub("", plain)[:300] or "no reason given"


def wrong_dsn(text: str) -> ConfigurationError:
    """The error for a DSN that libpq cannot parse. Of `text` only the name of an option is repeated: the
    rest may be a piece of a password."""
    option = re.search(r"invalid (?:connection option|URI query parameter):? \"(\w+)\"", text)
    if option:
        return ConfigurationError(f"source.dsn has an option {option[1]!r} that libpq does not know")
    return ConfigurationError("source.dsn is not a connection string", hint=_DSN_HINT)


def wrong_value(option: str) -> ConfigurationError:
    """The error for a value that an option cannot have. Not repeated: `u:p/w@host` has the port `p`."""
    return ConfigurationError(f"source.dsn has a wrong value for {option}", hint=_DSN_HINT)


def at_in_host() -> ConfigurationError:
    """The error for a URI whose password holds an @, so that its end was taken for a part of the host."""
    return ConfigurationError("source.dsn has an @ in its host", hint=_DSN_HINT)


#: SQLSTATE classes and codes that pass: connection, rollback, resources, operator intervention; a slot
#: that somebody else still holds. Manual: appendix A.
_PASSING = ("08", "40", "53", "57", "55006")
_REMEDIES = {
    "55006": "stop the other reader, or give this configuration another slot",
    "53400": "raise max_replication_slots and restart the server, or drop a slot that nobody needs",
    "42501": "`cdcflow check` says which privilege is missing, `cdcflow setup --print-sql` how to grant it",
    "42704": "run `cdcflow setup`",
    # A slot that was invalidated, or a wal_level that is too low.
    "55000": "`cdcflow check` says what is wrong with the slot and how to go on",
    # WAL that the slot needs was removed.
    "58P01": "`cdcflow check` says what is wrong with the slot and how to go on",
}


def failure(result: pq.abc.PGresult, what: str) -> SourceError:
    """The error for a command that the server refused; `what` says what then does not work.

    SourceUnavailable where the same command may succeed later.
    """
    fields = pq.DiagnosticField
    state = (result.error_field(fields.SQLSTATE) or b"").decode()
    said = (result.error_field(fields.MESSAGE_PRIMARY) or result.error_message or b"").decode(
        errors="replace"
    )
    # Without a SQLSTATE it is libpq that speaks: the connection is gone.
    kind = SourceUnavailable if not state or state.startswith(_PASSING) else SourceError
    message = f"{what}: {' '.join(said.split()) or 'the server gave no reason'}"
    return kind(message, hint=_REMEDIES.get(state, ""))

"""What people read when the server cannot be reached, and that no piece of a password is in it."""

import pytest

from cdcflow.errors import ConfigurationError, SourceError, SourceUnavailable
from cdcflow.source.connection import (
    connect,
    quote_identifier,
    quote_literal,
    replication_options,
    where,
)
from cdcflow.source.failures import connecting

AT = 'connection to server at "10.0.0.1", port 5432 failed: FATAL:  '


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        (
            AT + 'no pg_hba.conf entry for host "10.0.0.9", user "cdc", database "shop", no encryption',
            SourceError,
            "lets this client in by no line of its pg_hba.conf",
        ),
        (AT + "must be superuser or replication role to start walsender", SourceError, "REPLICATION"),
        (AT + "permission denied to start WAL sender\nDETAIL:  Only roles", SourceError, "REPLICATION"),
        (AT + "sorry, too many clients already", SourceUnavailable, "no more connections"),
        (AT + 'too many connections for role "cdc"', SourceUnavailable, "no more connections"),
        (AT + "the database system is starting up", SourceUnavailable, "now: the database system is"),
        (AT + "unsupported startup parameter: replication", SourceError, "session's settings"),
        ('root certificate file "/x/root.crt" does not exist', SourceError, "encrypted"),
        ("connection timeout expired", SourceUnavailable, "cannot be reached"),
        (
            'connection is bad: connection to server on socket "/run/.s.PGSQL.5432" failed: '
            "No such file or directory\n\tIs the server running locally and accepting connections?",
            SourceUnavailable,
            "no server listens on the socket",
        ),
        (AT + "die Datenbank ist müde", SourceUnavailable, "no connection to .*: die Datenbank ist müde"),
        ("", SourceUnavailable, "no reason given"),
    ],
)
def test_each_cause_has_its_words_and_a_remedy(text: str, kind: type[SourceError], message: str) -> None:
    error = connecting(text, "cdc@10.0.0.1/shop")
    assert type(error) is kind
    assert error.hint
    with pytest.raises(kind, match=message):
        raise error


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://cdc:p@ssw0rd@host/shop",
        "postgresql://cdc:p/ssw0rd@host/shop",
        "postgresql://cdc:%zzssw0rd@host/shop",
        "cdc:ssw0rd@host/shop",
        "host=host password=ssw 0rd",
        "host=host password=ssw0rd port=ssw0rd",
        "host=127.0.0.1 password=ssw0rd sslmode=ssw0rd",
        "host=host password=ssw0rd connect_timeout=ssw0rd",
        "host=host password=ssw0rd colour=ssw0rd",
        "host=host password=ssw0rd\0",
    ],
)
def test_a_wrong_dsn_is_a_configuration_error_without_any_piece_of_it(dsn: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        connect(dsn, purpose="test")
    shown = f"{caught.value} {caught.value.hint} {caught.value.__cause__}"
    assert "0rd" not in shown
    assert caught.value.exit_code == 2


def test_an_unknown_option_is_named() -> None:
    with pytest.raises(ConfigurationError, match="'sslmod'"):
        where("postgresql://host/shop?sslmod=require")


@pytest.mark.parametrize(
    ("dsn", "shown"),
    [
        ("postgresql://cdc:secret@db.example:6000/shop", "cdc@db.example:6000/shop"),
        ("host=db password=secret", "db"),
        ("postgresql://", "localhost"),
        ("service=shop password=secret", "service shop"),
    ],
)
def test_messages_name_the_server_without_its_password(dsn: str, shown: str) -> None:
    assert where(dsn) == shown


def test_the_replication_conninfo_keeps_what_the_user_gave_and_adds_ours_behind_it() -> None:
    conninfo = replication_options("postgresql://cdc@db/shop?options=-c%20work_mem%3D8MB&keepalives_idle=7")
    text = conninfo.decode()
    assert "replication=database" in text
    assert "keepalives_idle=7" in text
    assert text.index("work_mem=8MB") < text.index("DateStyle=ISO")


def test_quoting_doubles_quotes_and_refuses_what_no_quote_can_hold() -> None:
    assert quote_identifier('a"b\\') == '"a""b\\"'
    assert quote_literal("it's \\") == "'it''s \\'"
    for quote in (quote_identifier, quote_literal):
        with pytest.raises(ValueError, match="NUL"):
            quote("a\0")

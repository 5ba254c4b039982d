-- SQLite. Every text that a flow was run with, in order. `text` is as written: references, no secrets.
CREATE TABLE IF NOT EXISTS revision (
    flow       TEXT NOT NULL,
    number     INTEGER NOT NULL,
    hash       TEXT NOT NULL,
    text       TEXT NOT NULL,
    first_seen REAL NOT NULL,
    author     TEXT NOT NULL,
    source     TEXT NOT NULL,
    PRIMARY KEY (flow, number)
) WITHOUT ROWID;

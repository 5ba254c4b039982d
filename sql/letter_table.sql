-- SQLite. Changes that a flow's sink refused for good (`dead`), and those that wait behind one of them
-- (`parked`). `payload` is the change as the journal had it; `stands` where it
-- stands in which table, as msgpack.
CREATE TABLE IF NOT EXISTS letter (
    number         INTEGER PRIMARY KEY AUTOINCREMENT,
    flow           TEXT NOT NULL,
    journal_offset INTEGER NOT NULL,
    position       TEXT NOT NULL,
    state          TEXT NOT NULL CHECK (state IN ('dead', 'parked')),
    relation       TEXT NOT NULL,
    key            TEXT NOT NULL,
    op             TEXT NOT NULL,
    cause          TEXT NOT NULL,
    reason         TEXT NOT NULL,
    answer         TEXT NOT NULL,
    attempts       INTEGER NOT NULL,
    revision       TEXT NOT NULL,
    first          REAL NOT NULL,
    latest         REAL NOT NULL,
    newer          TEXT,
    stands         BLOB NOT NULL,
    payload        BLOB NOT NULL,
    UNIQUE (flow, journal_offset)
);

-- SQLite. Where people have told a flow to go on, until its sink has been told too. `refused`: why it was not.
CREATE TABLE IF NOT EXISTS move (
    flow           TEXT PRIMARY KEY,
    number         INTEGER NOT NULL,
    journal_offset INTEGER NOT NULL,
    asked          REAL NOT NULL,
    who            TEXT NOT NULL,
    why            TEXT NOT NULL,
    refused        TEXT
) WITHOUT ROWID;

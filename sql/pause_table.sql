-- SQLite. The flows that people have paused; `reached` is where in the journal they stand, if that is known.
CREATE TABLE IF NOT EXISTS pause (
    flow    TEXT PRIMARY KEY,
    since   REAL NOT NULL,
    who     TEXT NOT NULL,
    why     TEXT NOT NULL,
    reached INTEGER
) WITHOUT ROWID;

-- SQLite. The batch that a flow was about to write, by its run of journal offsets.
CREATE TABLE IF NOT EXISTS in_flight (
    flow       TEXT PRIMARY KEY,
    base       INTEGER NOT NULL,
    end_offset INTEGER NOT NULL
) WITHOUT ROWID;

-- SQLite. The engine's own checkpoints: how far each flow's sink holds everything.
CREATE TABLE IF NOT EXISTS checkpoint (
    flow           TEXT PRIMARY KEY,
    journal_offset INTEGER NOT NULL,
    position       TEXT NOT NULL,
    updated        REAL NOT NULL
) WITHOUT ROWID;

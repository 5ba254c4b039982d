-- SQLite. What people did away with: which change, why, and by whom. Without its values.
CREATE TABLE IF NOT EXISTS letter_audit (
    number   INTEGER PRIMARY KEY,
    at       REAL NOT NULL,
    who      TEXT NOT NULL,
    why      TEXT NOT NULL,
    flow     TEXT NOT NULL,
    position TEXT NOT NULL,
    relation TEXT NOT NULL,
    op       TEXT NOT NULL,
    cause    TEXT NOT NULL
);

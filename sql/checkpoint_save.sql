-- SQLite. A checkpoint only ever advances: a late writer changes nothing.
INSERT INTO checkpoint (flow, journal_offset, position, updated)
VALUES (?, ?, ?, ?)
ON CONFLICT (flow) DO UPDATE
SET journal_offset = excluded.journal_offset,
    position = excluded.position,
    updated = excluded.updated
WHERE excluded.journal_offset >= checkpoint.journal_offset;

-- SQLite. As a person has said, and whatever the checkpoint was.
INSERT INTO checkpoint (flow, journal_offset, position, updated)
VALUES (?, ?, ?, ?)
ON CONFLICT (flow) DO UPDATE
SET journal_offset = excluded.journal_offset,
    position = excluded.position,
    updated = excluded.updated;

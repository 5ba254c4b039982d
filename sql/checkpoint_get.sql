-- SQLite. One flow's checkpoint.
SELECT journal_offset, position, updated
FROM checkpoint
WHERE flow = ?;

-- SQLite. A flow's revisions, the newest last.
SELECT number, hash, text, first_seen, author, source
FROM revision
WHERE flow = ?
ORDER BY number;

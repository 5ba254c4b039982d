-- SQLite. Nothing where the flow's newest revision is this one.
INSERT INTO revision (flow, number, hash, text, first_seen, author, source)
SELECT ?1, coalesce(max(number), 0) + 1, ?2, ?3, ?4, ?5, ?6
FROM revision
WHERE flow = ?1
HAVING NOT EXISTS (
    SELECT 1
    FROM revision AS newest
    WHERE newest.flow = ?1
      AND newest.hash = ?2
      AND newest.number = (SELECT max(number) FROM revision WHERE flow = ?1)
);

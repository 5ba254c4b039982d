-- SQLite. Letters in the order of the journal. An argument that is NULL selects nothing away.
SELECT number, flow, journal_offset, position, state, relation, key, op, cause, reason, answer, attempts,
       revision, first, latest, newer
FROM letter
WHERE (?1 IS NULL OR flow = ?1)
  AND (?2 IS NULL OR state = ?2)
  AND (?3 IS NULL OR cause = ?3)
  AND (?4 IS NULL OR relation = ?4)
  AND (?5 IS NULL OR key = ?5)
  AND (?6 IS NULL OR latest >= ?6)
  AND (?7 IS NULL OR latest < ?7)
ORDER BY flow, journal_offset
LIMIT ?8;

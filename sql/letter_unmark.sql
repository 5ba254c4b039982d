-- SQLite. A change that has become a letter itself is no newer state that has gone out.
UPDATE letter
SET newer = NULL
WHERE flow = ?1
  AND newer IN (SELECT position FROM letter WHERE flow = ?1);

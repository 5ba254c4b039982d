-- SQLite. Keeps what is about to be discarded in the audit.
INSERT INTO letter_audit (number, at, who, why, flow, position, relation, op, cause)
SELECT number, ?1, ?2, ?3, flow, position, relation, op, cause
FROM letter
WHERE number = ?4;

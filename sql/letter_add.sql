-- SQLite. The same change refused again is one letter, tried once more; a parked one that is now refused
-- itself is dead.
INSERT INTO letter (flow, journal_offset, position, state, relation, key, op, cause, reason, answer, attempts,
                    revision, first, latest, stands, payload)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11,
        ?12, ?13, ?13, ?14, ?15)
ON CONFLICT (flow, journal_offset) DO UPDATE
SET state = CASE WHEN excluded.state = 'dead' THEN 'dead' ELSE letter.state END,
    cause = CASE WHEN excluded.state = 'dead' THEN excluded.cause ELSE letter.cause END,
    reason = CASE WHEN excluded.state = 'dead' THEN excluded.reason ELSE letter.reason END,
    answer = CASE WHEN excluded.state = 'dead' THEN excluded.answer ELSE letter.answer END,
    attempts = letter.attempts + excluded.attempts,
    revision = excluded.revision,
    latest = excluded.latest,
    stands = excluded.stands,
    payload = excluded.payload;

-- SQLite. A later wish replaces an earlier one, under another number.
INSERT INTO move (flow, number, journal_offset, asked, who, why, refused)
VALUES (?, 1, ?, ?, ?, ?, NULL)
ON CONFLICT (flow) DO UPDATE
SET number = move.number + 1,
    journal_offset = excluded.journal_offset,
    asked = excluded.asked,
    who = excluded.who,
    why = excluded.why,
    refused = NULL;

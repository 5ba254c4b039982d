-- What a chunk's snapshot sees, how far the WAL must be followed to know all that it sees, and what tells
-- whether the table is still what it was: its file, its entries in the catalog, and whether it is (still) a part
-- of the one that is published. Parameters: the table that holds the rows, the table that is published, the
-- publication's name.
SELECT
    pg_current_snapshot()::text,
    (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END)::text,
    pg_is_in_recovery(),
    pg_relation_filenode(%(leaf)s::oid::regclass)::bigint,
    (
        SELECT md5(string_agg(entry, ',' ORDER BY entry))
        FROM (
            SELECT 'c' || oid || ':' || xmin FROM pg_class WHERE oid IN (%(root)s, %(leaf)s)
            UNION ALL
            SELECT 'a' || attnum || ':' || xmin FROM pg_attribute WHERE attrelid = %(root)s AND attnum > 0
            UNION ALL
            SELECT 'i' || indexrelid || ':' || xmin FROM pg_index WHERE indrelid = %(root)s
            UNION ALL
            SELECT 'r' || r.oid || ':' || r.xmin
            FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
            WHERE p.pubname = %(publication)s
            UNION ALL
            SELECT 's' || s.oid || ':' || s.xmin
            FROM pg_publication_namespace s JOIN pg_publication p ON p.oid = s.pnpubid
            WHERE p.pubname = %(publication)s
            UNION ALL
            SELECT 'p' || oid || ':' || xmin FROM pg_publication WHERE pubname = %(publication)s
        ) entries (entry)
    ),
    %(leaf)s = %(root)s OR EXISTS (
        WITH RECURSIVE above (oid) AS (
            SELECT inhparent FROM pg_inherits WHERE inhrelid = %(leaf)s AND NOT inhdetachpending
            UNION
            SELECT i.inhparent FROM pg_inherits i JOIN above ON above.oid = i.inhrelid
            WHERE NOT i.inhdetachpending
        )
        SELECT FROM above WHERE oid = %(root)s
    )

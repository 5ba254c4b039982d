-- What the publication publishes, shaped as pgoutput's Relation messages will describe it: the same
-- columns in the same order, the same key flags, the same type names. Parameters: the publication's name,
-- and the OIDs of the tables that are meant (null: all).
WITH RECURSIVE base_type (oid, base) AS (
    -- A Type message names the base type of a domain (logicalrep_write_typ calls getBaseType).
    SELECT t.oid, t.oid FROM pg_type t WHERE t.typtype <> 'd'
    UNION ALL
    SELECT t.oid, b.base FROM pg_type t JOIN base_type b ON b.oid = t.typbasetype WHERE t.typtype = 'd'
)
SELECT
    c.oid::bigint AS oid,
    n.nspname AS schema,
    c.relname AS name,
    c.relreplident AS replica_identity,
    c.relkind = 'p' AS partitioned,
    c.reltuples::bigint AS estimated_rows,
    p.rowfilter AS row_filter,
    (
        SELECT coalesce(
            json_agg(
                json_build_array(
                    a.attname,
                    a.atttypid::bigint,
                    a.atttypmod,
                    -- INCLUDE columns, behind the key's own, are no part of the identity.
                    c.relreplident = 'f'
                        OR coalesce(a.attnum = ANY ((i.indkey::int2[])[:i.indnkeyatts - 1]), false),
                    -- FirstGenbkiObjectId: types below it are built in and get no Type message.
                    CASE WHEN a.atttypid >= 10000 THEN bn.nspname || '.' || bt.typname ELSE '' END
                )
                ORDER BY a.attnum
            ),
            '[]'
        )
        FROM pg_attribute a
        JOIN base_type b ON b.oid = a.atttypid
        JOIN pg_type bt ON bt.oid = b.base
        JOIN pg_namespace bn ON bn.oid = bt.typnamespace
        WHERE a.attrelid = c.oid
            AND a.attname = ANY (p.attnames)
            AND NOT a.attisdropped
            -- The view of 15 names generated columns too, which none before 18 publishes.
            AND (a.attgenerated = '' OR current_setting('server_version_num')::int >= 180000)
    ) AS columns
FROM pg_publication_tables p
JOIN pg_namespace n ON n.nspname = p.schemaname
JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = p.tablename
-- The identity's index: chosen by the user, or the primary key unless it is deferrable.
LEFT JOIN pg_index i ON i.indrelid = c.oid
    AND ((c.relreplident = 'i' AND i.indisreplident)
        OR (c.relreplident = 'd' AND i.indisprimary AND i.indimmediate))
WHERE p.pubname = %(publication)s
    AND (%(only)s::bigint[] IS NULL OR c.oid::bigint = ANY (%(only)s::bigint[]))
ORDER BY n.nspname, c.relname

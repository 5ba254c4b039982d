-- The columns of tables, each as a Relation message would describe it if it were published, with what
-- such a message does not say. Parameter: the tables' OIDs.
WITH RECURSIVE base_type (oid, base) AS (
    -- A Type message names the base type of a domain (logicalrep_write_typ calls getBaseType).
    SELECT t.oid, t.oid FROM pg_type t WHERE t.typtype <> 'd'
    UNION ALL
    SELECT t.oid, b.base FROM pg_type t JOIN base_type b ON b.oid = t.typbasetype WHERE t.typtype = 'd'
)
SELECT
    c.oid::bigint AS oid,
    coalesce(
        json_agg(
            json_build_array(
                a.attname,
                a.atttypid::bigint,
                a.atttypmod,
                c.relreplident = 'f' OR coalesce(a.attnum = ANY (i.indkey), false),
                -- FirstGenbkiObjectId: types below it are built in and get no Type message.
                CASE WHEN a.atttypid >= 10000 THEN bn.nspname || '.' || bt.typname ELSE '' END,
                a.attgenerated,
                -- 'p' (plain) alone never goes out of line.
                a.attstorage <> 'p'
            )
            ORDER BY a.attnum
        ) FILTER (WHERE a.attnum IS NOT NULL),
        '[]'
    ) AS columns,
    -- From the planner's statistics: a table's true size would wait for whoever has locked it.
    current_setting('block_size')::bigint * coalesce(
        CASE
            WHEN c.relkind = 'r' THEN (SELECT x.relpages FROM pg_class x WHERE x.oid = c.reltoastrelid)
            ELSE (
                SELECT sum(x.relpages)
                FROM pg_partition_tree(c.oid) t
                JOIN pg_class l ON l.oid = t.relid
                JOIN pg_class x ON x.oid = l.reltoastrelid
                WHERE t.isleaf
            )
        END,
        0
    ) AS toast_bytes
FROM pg_class c
-- The identity's index: chosen by the user, or the primary key unless it is deferrable.
LEFT JOIN pg_index i ON i.indrelid = c.oid
    AND ((c.relreplident = 'i' AND i.indisreplident)
        OR (c.relreplident = 'd' AND i.indisprimary AND i.indimmediate))
LEFT JOIN (
    pg_attribute a
    JOIN base_type b ON b.oid = a.atttypid
    JOIN pg_type bt ON bt.oid = b.base
    JOIN pg_namespace bn ON bn.oid = bt.typnamespace
) ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.oid = ANY (%s::bigint[]::oid[])
GROUP BY c.oid

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
    (
        SELECT coalesce(
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
            ),
            '[]'
        )
        FROM pg_attribute a
        JOIN base_type b ON b.oid = a.atttypid
        JOIN pg_type bt ON bt.oid = b.base
        JOIN pg_namespace bn ON bn.oid = bt.typnamespace
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    ) AS columns,
    -- From the planner's statistics: a table's true size would wait for whoever has locked it.
    (
        SELECT coalesce(sum(x.relpages), 0)::bigint * current_setting('block_size')::int
        FROM pg_class l
        JOIN pg_class x ON x.oid = l.reltoastrelid
        WHERE l.oid = c.oid
            OR (c.relkind = 'p' AND l.oid IN (SELECT t.relid FROM pg_partition_tree(c.oid) t WHERE t.isleaf))
    ) AS toast_bytes
FROM pg_class c
-- The identity's index: chosen by the user, or the primary key unless it is deferrable.
LEFT JOIN pg_index i ON i.indrelid = c.oid
    AND ((c.relreplident = 'i' AND i.indisreplident)
        OR (c.relreplident = 'd' AND i.indisprimary AND i.indimmediate))
WHERE c.oid = ANY (%s::bigint[]::oid[])

-- Every table that a publication can hold: permanent ones, partitioned or not, of no extension.
SELECT
    c.oid::bigint AS oid,
    n.nspname::text AS schema,
    c.relname::text AS name,
    c.relkind = 'p' AS partitioned,
    ARRAY(
        SELECT a.relid::oid::bigint FROM pg_partition_ancestors(c.oid) a WHERE a.relid <> c.oid
    ) AS ancestors,
    c.relreplident::text AS replica_identity,
    own.identified AS identified,
    -- An UPDATE is checked against the identity of the partition that holds the row.
    ARRAY(
        SELECT quote_ident(ln.nspname) || '.' || quote_ident(l.relname)
        FROM pg_partition_tree(c.oid) t
        JOIN pg_class l ON l.oid = t.relid
        JOIN pg_namespace ln ON ln.oid = l.relnamespace
        WHERE c.relkind = 'p'
            AND t.isleaf
            AND l.relkind = 'r'
            AND NOT (
                l.relreplident = 'f'
                OR EXISTS (
                    SELECT FROM pg_index i
                    WHERE i.indrelid = l.oid
                        AND i.indisvalid
                        AND ((l.relreplident = 'd' AND i.indisprimary AND i.indimmediate)
                            OR (l.relreplident = 'i' AND i.indisreplident))
                )
            )
        ORDER BY 1
    ) AS unidentified_partitions,
    ARRAY(
        SELECT a.attname::text
        FROM pg_index i
        CROSS JOIN unnest(i.indkey::int2[]) WITH ORDINALITY k (attnum, place)
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
        -- INCLUDE columns come behind the key's own.
        WHERE i.indrelid = c.oid AND i.indisprimary AND k.place <= i.indnkeyatts
        ORDER BY k.place
    ) AS primary_key,
    size.rows AS estimated_rows,
    size.bytes AS estimated_bytes,
    c.relrowsecurity
        AND (c.relforcerowsecurity OR NOT pg_has_role(c.relowner, 'USAGE')) AS filtered_by_policies,
    has_schema_privilege(n.oid, 'USAGE') AS schema_usable,
    ARRAY(
        SELECT a.attname::text
        FROM pg_attribute a
        WHERE a.attrelid = c.oid
            AND a.attnum > 0
            AND NOT a.attisdropped
            AND NOT has_column_privilege(c.oid, a.attnum, 'SELECT')
        ORDER BY a.attnum
    ) AS unreadable_columns,
    pg_has_role(c.relowner, 'USAGE') AS owned
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
CROSS JOIN LATERAL (
    SELECT c.relreplident = 'f' OR EXISTS (
        SELECT FROM pg_index i
        WHERE i.indrelid = c.oid
            AND i.indisvalid
            AND ((c.relreplident = 'd' AND i.indisprimary AND i.indimmediate)
                OR (c.relreplident = 'i' AND i.indisreplident))
    ) AS identified
) own
-- From the planner's statistics: pg_total_relation_size would wait for whoever has locked a table.
-- -1 rows: never counted by VACUUM or ANALYZE.
-- Two branches, since one with OR would read all of pg_class for every table.
CROSS JOIN LATERAL (
    SELECT
        coalesce(sum(greatest(leaf.rows, 0)), 0)::bigint AS rows,
        coalesce(sum(leaf.pages + coalesce(x.relpages, 0)), 0)::bigint
            * current_setting('block_size')::int AS bytes
    FROM (
        SELECT c.reltuples AS rows, c.relpages AS pages, c.reltoastrelid AS toast
        WHERE c.relkind = 'r'
        UNION ALL
        -- ANALYZE counts a partitioned table's rows for itself too; only its leaves hold any.
        SELECT l.reltuples, l.relpages, l.reltoastrelid
        FROM pg_partition_tree(c.oid) t
        JOIN pg_class l ON l.oid = t.relid
        WHERE c.relkind = 'p' AND t.isleaf
    ) leaf
    LEFT JOIN pg_class x ON x.oid = leaf.toast
) size
WHERE c.relkind IN ('r', 'p')
    AND c.relpersistence = 'p'
    AND n.nspname !~ '^pg_'
    AND n.nspname <> 'information_schema'
    AND NOT EXISTS (
        SELECT FROM pg_depend d
        WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
    )
ORDER BY n.nspname, c.relname

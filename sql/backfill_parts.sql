-- The tables that hold the rows of a published one: itself, or the leaves of a partitioned table.
-- Parameter: its OID.
SELECT
    c.oid::bigint,
    n.nspname,
    c.relname,
    c.relkind,
    coalesce(pg_relation_filenode(c.oid::regclass), 0)::bigint AS file,
    CASE WHEN c.relkind IN ('r', 'm') THEN pg_relation_size(c.oid) / current_setting('block_size')::bigint
        ELSE 0 END AS pages,
    CASE WHEN c.relkind IN ('r', 'm') THEN pg_table_size(c.oid) ELSE 0 END AS bytes,
    c.reltuples::bigint AS estimated_rows
FROM (
    SELECT %(oid)s::oid AS oid WHERE NOT EXISTS (SELECT FROM pg_class WHERE oid = %(oid)s AND relkind = 'p')
    UNION ALL
    SELECT relid::oid FROM pg_partition_tree(%(oid)s::oid::regclass) WHERE isleaf
        AND EXISTS (SELECT FROM pg_class WHERE oid = %(oid)s AND relkind = 'p')
) parts
JOIN pg_class c ON c.oid = parts.oid
JOIN pg_namespace n ON n.oid = c.relnamespace
ORDER BY c.oid

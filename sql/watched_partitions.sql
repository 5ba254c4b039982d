-- The leaves of the partitioned tables that a publication publishes as their root. `files` changes with TRUNCATE
-- and with every rewrite, `attached` is the transaction that last brought the leaf, or what it is a part of,
-- into the tree, and `attaching` its command. Parameter: the publication's name.
SELECT
    r.oid::bigint AS root,
    t.schemaname || '.' || t.tablename AS root_name,
    l.oid::bigint AS leaf,
    ln.nspname || '.' || l.relname AS leaf_name,
    l.relfilenode::bigint AS files,
    l.xmin::text::bigint AS changed,
    -- The size is that of now, and waits for locks: where the snapshot's file is not the one any more, that was.
    CASE WHEN pg_relation_size(l.oid) > 0 THEN true
        ELSE pg_relation_filenode(l.oid) IS DISTINCT FROM l.relfilenode END AS filled,
    i.xmin::text::bigint AS attached,
    i.cmin::text::bigint AS attaching
FROM pg_publication p
JOIN pg_publication_tables t ON t.pubname = p.pubname
JOIN pg_namespace n ON n.nspname = t.schemaname
JOIN pg_class r ON r.relnamespace = n.oid AND r.relname = t.tablename AND r.relkind = 'p'
CROSS JOIN LATERAL pg_partition_tree(r.oid) tree
JOIN pg_class l ON l.oid = tree.relid AND l.relkind = 'r'
JOIN pg_namespace ln ON ln.oid = l.relnamespace
CROSS JOIN LATERAL (
    SELECT h.xmin, h.cmin FROM pg_partition_ancestors(l.oid) a JOIN pg_inherits h ON h.inhrelid = a.relid
    ORDER BY age(h.xmin) LIMIT 1
) i
WHERE p.pubname = %s AND p.pubviaroot AND tree.isleaf

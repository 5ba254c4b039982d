-- How the catalog numbers the columns of tables, and what says whether their rows were rewritten.
-- Parameter: the tables' OIDs. One statement, so that all of it is of one moment.
SELECT
    c.oid::bigint AS oid,
    storage.files,
    (SELECT count(*) FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0)::int AS count,
    coalesce(
        (
            SELECT json_agg(
                json_build_array(
                    a.attnum, a.attname, a.atttypid::bigint, a.atttypmod, a.xmin::text::bigint,
                    -- The rows of a partitioned table lie in its leaves, and the value beside them.
                    CASE WHEN c.relkind = 'p' THEN
                        (
                            SELECT min(array_to_string(l.attmissingval, ''))
                            FROM pg_partition_tree(c.oid) t
                            JOIN pg_attribute l ON l.attrelid = t.relid AND l.attname = a.attname
                            WHERE t.isleaf AND l.atthasmissing
                        )
                    WHEN a.atthasmissing THEN array_to_string(a.attmissingval, '') END
                )
                ORDER BY a.attnum
            )
            FROM pg_attribute a
            WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        ),
        '[]'
    ) AS attributes
FROM pg_class c
CROSS JOIN LATERAL (
    SELECT CASE WHEN c.relkind = 'p' THEN
        (
            SELECT coalesce(md5(string_agg(l.oid || ':' || l.relfilenode, ',' ORDER BY l.oid)), '')
            FROM pg_partition_tree(c.oid) t
            JOIN pg_class l ON l.oid = t.relid
            WHERE t.isleaf
        )
    ELSE c.relfilenode::text END AS files
) storage
WHERE c.oid = ANY (%s)

-- Tables that a `tail` can watch, and whether publishing their updates is safe: publishing the updates of
-- a table without a replica identity makes the application's own UPDATE and DELETE fail.
SELECT
    n.nspname AS schema,
    c.relname AS name,
    c.relreplident = 'f' OR EXISTS (
        SELECT FROM pg_index i
        WHERE i.indrelid = c.oid
            AND ((c.relreplident = 'd' AND i.indisprimary AND i.indimmediate)
                OR (c.relreplident = 'i' AND i.indisreplident))
    ) AS identified
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r'
    AND c.relpersistence = 'p'
    AND n.nspname NOT IN ('pg_catalog', 'information_schema')
    AND n.nspname NOT LIKE 'pg\_toast%%'
    AND has_table_privilege(c.oid, 'SELECT')
ORDER BY n.nspname, c.relname

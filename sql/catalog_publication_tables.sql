-- What a publication publishes, as a subscriber would see it. Parameter: its name.
SELECT
    p.schemaname::text AS schema,
    p.tablename::text AS name,
    -- NULL for a table without columns.
    coalesce(p.attnames::text[], '{}') AS columns,
    p.rowfilter AS row_filter
FROM pg_publication_tables p
WHERE p.pubname = %s
ORDER BY p.schemaname, p.tablename

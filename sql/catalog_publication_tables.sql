-- What a publication publishes, as a subscriber would see it. Parameter: its name.
SELECT
    p.schemaname::text AS schema,
    p.tablename::text AS name,
    -- NULL for a table without columns.
    coalesce(p.attnames::text[], '{}') AS columns,
    p.rowfilter AS row_filter,
    -- The server notes on which columns a filter depends, and on which a column list does, in one place:
    -- those of the filter are also in its text.
    ARRAY(
        SELECT a.attname::text
        FROM pg_namespace n
        JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = p.tablename
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
        WHERE n.nspname = p.schemaname
            AND position(quote_ident(a.attname) IN p.rowfilter) > 0
            AND EXISTS (
                SELECT
                FROM pg_publication b
                JOIN pg_publication_rel r ON r.prpubid = b.oid AND r.prrelid = c.oid
                JOIN pg_depend d
                    ON d.classid = 'pg_publication_rel'::regclass
                    AND d.objid = r.oid
                    AND d.refclassid = 'pg_class'::regclass
                    AND d.refobjid = c.oid
                    AND d.refobjsubid = a.attnum
                WHERE b.pubname = p.pubname
            )
        ORDER BY a.attnum
    ) AS filter_columns
FROM pg_publication_tables p
WHERE p.pubname = %s
ORDER BY p.schemaname, p.tablename

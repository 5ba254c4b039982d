-- What a publication publishes, as a subscriber would see it. Parameter: its name.
SELECT
    p.schemaname::text AS schema,
    p.tablename::text AS name,
    p.attnames::text[] AS columns,
    p.rowfilter AS row_filter,
    -- The server notes on which columns a filter depends, and on which a column list does, in one place:
    -- those of the filter are also in its text.
    ARRAY(
        SELECT a.attname::text
        FROM pg_publication b
        JOIN pg_publication_rel r ON r.prpubid = b.oid AND r.prqual IS NOT NULL
        JOIN pg_class c ON c.oid = r.prrelid AND c.relname = p.tablename
        JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = p.schemaname
        JOIN pg_depend d
            ON d.classid = 'pg_publication_rel'::regclass
            AND d.objid = r.oid
            AND d.refclassid = 'pg_class'::regclass
            AND d.refobjid = c.oid
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = d.refobjsubid
        WHERE b.pubname = p.pubname AND a.attnum > 0 AND position(quote_ident(a.attname) IN p.rowfilter) > 0
        ORDER BY a.attnum
    ) AS filter_columns
FROM pg_publication_tables p
WHERE p.pubname = %s
ORDER BY p.schemaname, p.tablename

-- The columns of a table that the role may read, with their types as a Type message would name them, and
-- each type as it is written in SQL. Parameters: schema, name. No row: no such table, or no such column.
WITH RECURSIVE base_type (oid, base) AS (
    SELECT t.oid, t.oid FROM pg_type t WHERE t.typtype <> 'd'
    UNION ALL
    SELECT t.oid, b.base FROM pg_type t JOIN base_type b ON b.oid = t.typbasetype WHERE t.typtype = 'd'
)
SELECT
    a.attname::text AS name,
    t.oid::bigint AS type_oid,
    a.atttypmod AS typmod,
    -- OIDs below this are built in (manual, 73.2.2).
    CASE WHEN t.oid >= 16384 THEN tn.nspname || '.' || t.typname ELSE '' END AS type_name,
    format_type(t.oid, NULL) AS sql_type,
    has_column_privilege(c.oid, a.attnum, 'SELECT') AS readable
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN base_type b ON b.oid = a.atttypid
JOIN pg_type t ON t.oid = b.base
JOIN pg_namespace tn ON tn.oid = t.typnamespace
WHERE n.nspname = %s AND c.relname = %s
ORDER BY a.attnum

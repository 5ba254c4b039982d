-- The tables of a publication with their OIDs, and the OID of the entry that names each one: a table that
-- is taken out and put back, or whose column list or row filter is changed, gets a new entry. Parameter:
-- the publication's name.
SELECT c.oid::bigint AS oid, n.nspname || '.' || c.relname AS name, coalesce(r.oid, 0)::bigint AS entry
FROM pg_publication_tables t
JOIN pg_namespace n ON n.nspname = t.schemaname
JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename
JOIN pg_publication p ON p.pubname = t.pubname
LEFT JOIN pg_publication_rel r ON r.prpubid = p.oid AND r.prrelid = c.oid
WHERE t.pubname = %s

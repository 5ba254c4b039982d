-- What tells whether a published table is still what it was, with all that hold its rows. Parameters: its OID,
-- the publication's name.
WITH RECURSIVE parts (oid) AS (
    SELECT %(oid)s::oid
    UNION
    SELECT i.inhrelid FROM pg_inherits i JOIN parts ON parts.oid = i.inhparent
)
SELECT md5(string_agg(entry, ',' ORDER BY entry))
FROM (
    SELECT 'c' || c.oid || ':' || c.xmin FROM pg_class c JOIN parts ON parts.oid = c.oid
    UNION ALL
    SELECT 'a' || a.attrelid || ':' || a.attnum || ':' || a.xmin
    FROM pg_attribute a JOIN parts ON parts.oid = a.attrelid WHERE a.attnum > 0
    UNION ALL
    SELECT 'r' || r.oid || ':' || r.xmin
    FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
    WHERE p.pubname = %(publication)s
    UNION ALL
    SELECT 's' || s.oid || ':' || s.xmin
    FROM pg_publication_namespace s JOIN pg_publication p ON p.oid = s.pnpubid
    WHERE p.pubname = %(publication)s
    UNION ALL
    SELECT 'p' || oid || ':' || xmin FROM pg_publication WHERE pubname = %(publication)s
) entries (entry)

-- What is watched of a publication: its own OID and options. Parameter: its name.
SELECT
    p.oid::bigint AS oid,
    p.puballtables AS all_tables,
    concat_ws(
        ', ',
        CASE WHEN p.pubinsert THEN 'insert' END,
        CASE WHEN p.pubupdate THEN 'update' END,
        CASE WHEN p.pubdelete THEN 'delete' END,
        CASE WHEN p.pubtruncate THEN 'truncate' END
    ) AS operations,
    p.pubviaroot AS via_root
FROM pg_publication p
WHERE p.pubname = %s

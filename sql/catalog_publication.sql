-- A publication's options, and the tables that it names itself or by their schema, whether or not it
-- publishes them under these names. Parameter: its name.
SELECT
    p.puballtables,
    p.pubinsert,
    p.pubupdate,
    p.pubdelete,
    p.pubtruncate,
    p.pubviaroot,
    ARRAY(
        SELECT r.prrelid::bigint FROM pg_publication_rel r WHERE r.prpubid = p.oid
        UNION
        SELECT c.oid::bigint
        FROM pg_publication_namespace s
        JOIN pg_class c ON c.relnamespace = s.pnnspid AND c.relkind IN ('r', 'p')
        WHERE s.pnpubid = p.oid
    ) AS listed
FROM pg_publication p
WHERE p.pubname = %s

-- Every table that a publication can hold, with its size and what identifies its rows.
-- Partitions stand for themselves in none of the rows: their root does, with the sum of their sizes.
-- Tables of an extension belong to the extension; unlogged and temporary ones have no WAL to capture.
SELECT n.nspname,
       c.relname,
       CASE
           WHEN c.relkind = 'p' THEN (
               SELECT sum(greatest(leaf.reltuples, 0))::bigint
               FROM pg_partition_tree(c.oid) AS tree
               JOIN pg_class AS leaf ON leaf.oid = tree.relid
               WHERE tree.isleaf
           )
           -- -1: never counted by VACUUM or ANALYZE.
           WHEN c.reltuples >= 0 THEN c.reltuples::bigint
       END AS rows,
       CASE
           WHEN c.relkind = 'p' THEN (
               SELECT sum(pg_total_relation_size(tree.relid))::bigint
               FROM pg_partition_tree(c.oid) AS tree
               WHERE tree.isleaf
           )
           ELSE pg_total_relation_size(c.oid)
       END AS bytes,
       CASE c.relreplident
           WHEN 'f' THEN true
           WHEN 'n' THEN false
           WHEN 'i' THEN EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = c.oid AND i.indisreplident)
           ELSE EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = c.oid AND i.indisprimary)
       END AS identified
FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p')
  AND NOT c.relispartition
  AND c.relpersistence = 'p'
  AND n.nspname !~ '^pg_'
  AND n.nspname <> 'information_schema'
  AND NOT EXISTS (
      SELECT
      FROM pg_depend AS d
      WHERE d.classid = 'pg_class'::regclass
        AND d.objid = c.oid
        AND d.deptype = 'e'
  )
ORDER BY n.nspname, c.relname

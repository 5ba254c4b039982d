-- The columns of one table in their order: name, type, whether it is an array, place in the primary key.
SELECT a.attname, t.typname, t.typelem <> 0 AND t.typlen = -1 AS is_array,
       array_position(i.indkey::int2[], a.attnum) AS key_place
FROM pg_attribute a
JOIN pg_type declared ON declared.oid = a.atttypid
-- A domain is compared as the type that it is made of.
JOIN pg_type t ON t.oid = CASE declared.typtype WHEN 'd' THEN declared.typbasetype ELSE declared.oid END
LEFT JOIN pg_index i ON i.indrelid = a.attrelid AND i.indisprimary
WHERE a.attrelid = format('%%I.%%I', %s::text, %s::text)::regclass AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum

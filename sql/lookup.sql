-- For arrays of a key's texts, in the types of the columns that they are compared with: the place of each key
-- that has a row, from 1, and the row's columns. Rows with the same key come in the order of their texts.
-- Filled in by cdcflow.source.lookup.
SELECT k.n{wanted}
FROM unnest({arrays}) WITH ORDINALITY AS k ({names}, n)
JOIN {table} t ON {same}
ORDER BY k.n{order}

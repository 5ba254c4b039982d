-- Which cluster, which history of it, and which database.
SELECT
    (SELECT system_identifier::text FROM pg_control_system()) AS system_identifier,
    CASE
        -- A standby writes no WAL of its own; the last checkpoint's timeline is the best it has.
        WHEN pg_is_in_recovery() THEN (SELECT timeline_id FROM pg_control_checkpoint())
        -- The first eight digits of a WAL file's name are the timeline (manual: pg_walfile_name).
        ELSE ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::int
    END AS timeline,
    current_database()::text AS database,
    current_setting('server_version_num')::int AS version,
    pg_is_in_recovery() AS in_recovery

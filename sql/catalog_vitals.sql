-- How the server and our slot are now, and which limits stand over the slot. Parameter: the slot's name.
SELECT
    -- Limits that count in MB; -1 is none.
    (SELECT nullif(setting::bigint, -1) * 1048576 FROM pg_settings WHERE name = 'max_slot_wal_keep_size')
        AS slot_wal_limit,
    -- From 18 on; 0 is none.
    (SELECT nullif(setting::bigint, 0) FROM pg_settings WHERE name = 'idle_replication_slot_timeout')
        AS slot_idle_limit_seconds,
    (SELECT setting::bigint FROM pg_settings WHERE name = 'autovacuum_freeze_max_age') AS freeze_age,
    -- Below zero where the slot is ahead, as on a standby that has yet to replay.
    pg_wal_lsn_diff(
        CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END,
        s.restart_lsn
    )::bigint AS retained_bytes,
    age(s.catalog_xmin)::bigint AS catalog_age,
    oldest.pid,
    oldest.prepared,
    oldest.who,
    oldest.seconds
FROM (SELECT) here
LEFT JOIN pg_replication_slots s ON s.slot_name = %s
-- The oldest transaction with an xid, in any database: decoding may have to begin again where it began.
LEFT JOIN LATERAL (
    SELECT
        x.pid,
        x.prepared,
        x.who,
        extract(epoch FROM clock_timestamp() - x.since)::float8 AS seconds
    FROM (
        SELECT
            a.pid,
            NULL::text AS prepared,
            concat_ws(', ', nullif(a.application_name, ''), a.usename, a.datname, a.state) AS who,
            a.backend_xid AS xid,
            a.xact_start AS since
        FROM pg_stat_activity a
        WHERE a.backend_xid IS NOT NULL
        UNION ALL
        SELECT NULL, t.gid, concat_ws(', ', t.owner, t.database), t.transaction, t.prepared
        FROM pg_prepared_xacts t
    ) x
    ORDER BY age(x.xid) DESC
    LIMIT 1
) oldest ON true

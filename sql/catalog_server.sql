-- What preflight must know of the server and of the role that we connect as.
SELECT
    current_setting('wal_level') AS wal_level,
    (SELECT setting::int FROM pg_settings WHERE name = 'wal_sender_timeout') AS wal_sender_timeout_ms,
    current_setting('max_replication_slots')::int AS max_slots,
    (SELECT count(*) FROM pg_replication_slots)::int AS used_slots,
    current_setting('max_wal_senders')::int AS max_senders,
    (SELECT count(*) FROM pg_stat_replication)::int AS used_senders,
    r.rolname::text AS role,
    r.rolreplication
        OR r.rolsuper
        -- Amazon RDS grants the right by membership instead of an attribute.
        OR EXISTS (
            SELECT FROM pg_roles m WHERE m.rolname = 'rds_replication' AND pg_has_role(m.oid, 'MEMBER')
        ) AS may_replicate,
    r.rolbypassrls OR r.rolsuper AS bypasses_rls,
    has_database_privilege(current_database(), 'CREATE') AS may_create_publication
FROM pg_roles r
WHERE r.rolname = current_user

-- What stands between this server and its standbys and, on a standby, between it and its primary.
SELECT
    ARRAY (
        SELECT s.slot_name::text FROM pg_replication_slots s
        -- Without a restart_lsn nobody has used it yet.
        WHERE s.slot_type = 'physical' AND NOT s.temporary AND s.restart_lsn IS NOT NULL
        ORDER BY 1
    ) AS physical_slots,
    -- From 17 on.
    current_setting('synchronized_standby_slots', true) AS synchronized,
    current_setting('hot_standby_feedback')::bool AS hot_standby_feedback,
    current_setting('primary_slot_name') AS primary_slot

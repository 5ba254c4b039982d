-- Puts every DDL command into the stream, as a logical message at its place in its transaction. Needs a
-- superuser, or the provider's role in its place (rds_superuser, cloudsqlsuperuser, azure_pg_admin).
CREATE SCHEMA IF NOT EXISTS cdcflow;

-- Everything is qualified, since this runs under the search_path of whoever runs the DDL.
CREATE OR REPLACE FUNCTION cdcflow.emit_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $cdcflow$
DECLARE
    concerned pg_catalog.json;
BEGIN
    IF tg_event OPERATOR(pg_catalog.=) 'sql_drop' THEN
        -- What was named, and what CASCADE took along; not what belongs to a table anyway.
        SELECT pg_catalog.json_agg(pg_catalog.json_build_object(
            'type', d.object_type, 'schema', d.schema_name, 'identity', d.object_identity
        ))
        INTO concerned
        FROM pg_catalog.pg_event_trigger_dropped_objects() d
        WHERE (d.original OR d.normal) AND NOT d.is_temporary;
    ELSE
        SELECT pg_catalog.json_agg(pg_catalog.json_build_object(
            'type', c.object_type, 'schema', c.schema_name, 'identity', c.object_identity
        ))
        INTO concerned
        FROM pg_catalog.pg_event_trigger_ddl_commands() c
        WHERE NOT c.in_extension AND c.schema_name IS DISTINCT FROM 'pg_temp';
    END IF;
    IF concerned IS NOT NULL THEN
        PERFORM pg_catalog.pg_logical_emit_message(true, 'cdcflow.ddl', pg_catalog.json_build_object(
            'event', tg_event,
            'tag', tg_tag,
            -- Commands that can hold a password are not repeated, nor what was sent together with one.
            'text', CASE WHEN
                tg_tag OPERATOR(pg_catalog.!~) '(USER MAPPING|SERVER|SUBSCRIPTION|FOREIGN DATA WRAPPER)'
                AND pg_catalog.current_query() OPERATOR(pg_catalog.!~*)
                    '\m(create|alter)\s+(user|role|group|server|subscription)\M'
                THEN pg_catalog.current_query() END,
            'user', current_user,
            'search_path', pg_catalog.current_setting('search_path'),
            'objects', concerned
        )::pg_catalog.text);
        -- A message is ordered by the end of its record (logicalmsg_decode), where the next one begins. The
        -- exception block is a subtransaction, so a change of the transaction itself that began there could
        -- come first. This record, which is nobody's event, lies in between.
        PERFORM pg_catalog.pg_logical_emit_message(false, 'cdcflow.ddl.end', '');
    END IF;
EXCEPTION WHEN OTHERS THEN
    -- The application's DDL never fails because of its history.
    RAISE WARNING 'cdcflow does not capture this %: %', tg_tag, sqlerrm;
END
$cdcflow$;

DROP EVENT TRIGGER IF EXISTS cdcflow_ddl;
DROP EVENT TRIGGER IF EXISTS cdcflow_drop;
CREATE EVENT TRIGGER cdcflow_ddl ON ddl_command_end EXECUTE FUNCTION cdcflow.emit_ddl();
CREATE EVENT TRIGGER cdcflow_drop ON sql_drop EXECUTE FUNCTION cdcflow.emit_ddl();

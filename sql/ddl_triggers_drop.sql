-- Takes away what ddl_triggers.sql makes; the schema only when nothing else is in it.
DROP EVENT TRIGGER IF EXISTS cdcflow_ddl;
DROP EVENT TRIGGER IF EXISTS cdcflow_drop;
DROP FUNCTION IF EXISTS cdcflow.emit_ddl();
DO $$
BEGIN
    DROP SCHEMA IF EXISTS cdcflow;
EXCEPTION WHEN dependent_objects_still_exist OR insufficient_privilege THEN
    NULL;
END
$$;

-- A role per service: services/engine/roles.py makes them after each migration. The scheduler's has no right to make
-- tables, so the partitions come from a function with its owner's rights, which takes no argument and names its schema.
ALTER FUNCTION create_attempts_partitions() SECURITY DEFINER SET search_path = public, pg_temp;
REVOKE EXECUTE ON FUNCTION create_attempts_partitions() FROM PUBLIC;

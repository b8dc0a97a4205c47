-- `tasks`, `attempts`, `stage_counters` and `stage_stats` are partitioned by job_id: ids are UUIDv7 (RFC 9562), so a
-- partition holds the jobs of a month (UTC). The tables as they were become the first partition, and no row is moved:
-- their jobs are those before a bound, a CHECK says so, it is validated while the services write, and then the table is
-- attached in no time. Each part is a transaction and may be repeated.

-- The least id of a job that is submitted at this moment.
CREATE OR REPLACE FUNCTION first_job_at(moment timestamptz) RETURNS uuid LANGUAGE sql STABLE PARALLEL SAFE RETURN
    (lpad(to_hex(floor(extract(epoch FROM moment) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid;

CREATE OR REPLACE FUNCTION partitioned_tables() RETURNS text[] LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN ARRAY['attempts', 'tasks', 'stage_counters', 'stage_stats']; -- attempts go first: see drop_partitions()

-- What has a bound, and which: months by name (2026_12), and `first`, all that was before there were any.
CREATE OR REPLACE VIEW job_partitions AS
    SELECT parent.relname::text AS of_table, part.relname::text AS partition,
        substr(part.relname, length(parent.relname) + 2) AS month, bound.first_job, bound.until_job
    FROM pg_class AS parent JOIN pg_inherits AS i ON i.inhparent = parent.oid
    JOIN pg_class AS part ON part.oid = i.inhrelid
    CROSS JOIN LATERAL (
        SELECT coalesce(substring(of_values FROM 'FROM \(''([0-9a-f-]{36})'), repeat('0', 32))::uuid AS first_job,
            substring(of_values FROM 'TO \(''([0-9a-f-]{36})')::uuid AS until_job
        FROM pg_get_expr(part.relpartbound, part.oid) AS of_values
    ) AS bound
    WHERE parent.relname = ANY(partitioned_tables()) AND parent.relkind = 'p'
      AND parent.relnamespace = 'public'::regnamespace AND bound.until_job IS NOT NULL;

-- The table's partition of a month. It is made beside the table and attached, which no reader or writer waits for.
CREATE OR REPLACE FUNCTION make_partition(of_table text, month timestamptz) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    name text := of_table || to_char(month AT TIME ZONE 'UTC', '_YYYY_MM');
    first uuid := first_job_at(month);
    until uuid := first_job_at((month AT TIME ZONE 'UTC' + interval '1 month') AT TIME ZONE 'UTC');
    options text := (SELECT array_to_string(reloptions, ', ') FROM pg_class
        WHERE oid = to_regclass(of_table || '_default'));
    taken boolean;
BEGIN
    IF EXISTS (SELECT FROM job_partitions AS p WHERE p.of_table = make_partition.of_table AND p.until_job >= until
               AND p.first_job <= first) THEN
        RETURN;
    END IF;
    EXECUTE format('SELECT EXISTS (SELECT FROM %I WHERE job_id >= $1 AND job_id < $2)', of_table || '_default')
        INTO taken USING first, until;
    IF taken THEN -- of a clock that was months ahead: they stay where they are, and the month's others with them
        RETURN;
    END IF;
    EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL) %s', name, of_table, 'WITH (' || options || ')');
    EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', of_table, name, first, until);
END $$;

-- Partitions of this month and the next three: statements that do not name months are planned for all there are. False
-- if one is lacking, because its table was in use for long: only who reads the default partition ever waits for this,
-- and not for long.
CREATE OR REPLACE FUNCTION make_partitions() RETURNS boolean LANGUAGE plpgsql
SECURITY DEFINER SET search_path = public, pg_temp SET lock_timeout = '500ms' AS $$
DECLARE
    this_month timestamp := date_trunc('month', now() AT TIME ZONE 'UTC');
BEGIN
    FOR ahead IN 0..3 LOOP
        PERFORM make_partition(of_table, (this_month + ahead * interval '1 month') AT TIME ZONE 'UTC')
            FROM unnest(partitioned_tables()) AS of_table;
    END LOOP;
    RETURN true;
EXCEPTION WHEN lock_not_available THEN
    RETURN false;
END $$;
REVOKE EXECUTE ON FUNCTION make_partitions() FROM PUBLIC;

-- Whether anybody needs what these jobs, from one to before the other, have in the partitioned tables.
CREATE OR REPLACE FUNCTION jobs_need_rows(first_job uuid, until_job uuid) RETURNS boolean LANGUAGE sql STABLE
    BEGIN ATOMIC
        SELECT EXISTS (SELECT FROM jobs AS j WHERE j.job_id >= first_job AND j.job_id < until_job);
    END;

-- Drop the oldest partition of a past month that nobody needs, in no time, and return its name, if there is one. One at
-- a time, as locks are held to the transaction's end. Attempts are rolled up before they go, and what the roll-up makes
-- of them goes after them. All statements on a table wait while this waits for it: it gives up if that takes long.
CREATE OR REPLACE FUNCTION drop_partitions() RETURNS SETOF text LANGUAGE plpgsql
SECURITY DEFINER SET search_path = public, pg_temp SET lock_timeout = '500ms' AS $$
DECLARE
    part record;
    due boolean;
BEGIN
    FOR part IN
        SELECT p.* FROM job_partitions AS p WHERE p.until_job <= first_job_at(now() - interval '1 day')
        ORDER BY p.until_job, array_position(partitioned_tables(), p.of_table)
    LOOP
        CONTINUE WHEN jobs_need_rows(part.first_job, part.until_job);
        IF part.of_table = 'attempts' THEN
            EXECUTE format('SELECT NOT EXISTS (SELECT FROM %I WHERE txid >= (SELECT txid FROM stats_watermark))',
                part.partition) INTO due;
        ELSE
            due := NOT EXISTS (SELECT FROM job_partitions AS a WHERE a.of_table = 'attempts' AND a.month = part.month);
        END IF;
        CONTINUE WHEN NOT due;
        BEGIN
            EXECUTE format('DROP TABLE %I', part.partition);
            RETURN NEXT part.partition;
            RETURN;
        EXCEPTION WHEN lock_not_available THEN
            RETURN;
        END;
    END LOOP;
END $$;
REVOKE EXECUTE ON FUNCTION drop_partitions() FROM PUBLIC;

-- What turns a table into the first partition of one with the same name, indexes and rights.
CREATE OR REPLACE FUNCTION pg_temp.become_partition(of_table text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    name text := of_table || '_first';
    bound text := (SELECT pg_get_constraintdef(oid) FROM pg_constraint
        WHERE conrelid = of_table::regclass AND conname = of_table || '_bound');
    options text := (SELECT array_to_string(reloptions, ', ') FROM pg_class WHERE oid = of_table::regclass);
    rights aclitem[] := (SELECT relacl FROM pg_class WHERE oid = of_table::regclass);
    found record;
BEGIN
    IF bound IS NULL THEN -- it was done before
        RETURN;
    END IF;
    EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', of_table);
    EXECUTE format('ALTER TABLE %I RENAME TO %I', of_table, name);
    FOR found IN SELECT inhrelid::regclass AS part, relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
                 WHERE inhparent = name::regclass LOOP
        EXECUTE format('ALTER TABLE %s RENAME TO %I', found.part,
            overlay(found.relname PLACING name FROM 1 FOR length(of_table)));
    END LOOP;
    EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL EXCLUDING INDEXES) PARTITION BY RANGE (job_id)',
        of_table, name);
    EXECUTE format('ALTER TABLE %I DROP CONSTRAINT %I', of_table, of_table || '_bound');
    FOR found IN SELECT c.relname, pg_get_indexdef(c.oid) AS made, pg_get_constraintdef(k.oid) AS key
                 FROM pg_index AS x JOIN pg_class AS c ON c.oid = x.indexrelid
                 LEFT JOIN pg_constraint AS k ON k.conindid = c.oid WHERE x.indrelid = name::regclass LOOP
        EXECUTE format('ALTER INDEX %I RENAME TO %I', found.relname,
            overlay(found.relname PLACING name FROM 1 FOR length(of_table)));
        IF found.key IS NOT NULL THEN
            EXECUTE format('ALTER TABLE %I ADD CONSTRAINT %I %s', of_table, found.relname, found.key);
        ELSE
            EXECUTE regexp_replace(found.made, ' ON (ONLY )?\S+ ', format(' ON %I ', of_table));
        END IF;
    END LOOP;
    EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (MINVALUE) TO (%L)', of_table, name,
        substring(bound FROM '''([^'']+)'''));
    EXECUTE format('ALTER TABLE %I DROP CONSTRAINT %I', name, of_table || '_bound');
    EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL) %s', of_table || '_default', of_table,
        'WITH (' || options || ')');
    EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I DEFAULT', of_table, of_table || '_default');
    FOR found IN SELECT privilege_type, pg_get_userbyid(grantee) AS who FROM aclexplode(rights)
                 WHERE privilege_type IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE') AND grantee <> 0 LOOP
        EXECUTE format('GRANT %s ON %I TO %I', found.privilege_type, of_table, found.who);
    END LOOP;
END $$;

-- next part
-- The bound: a month and more ahead, so that all jobs of the next weeks are before it too. A new grid begins with months.
DO $$
DECLARE
    bound uuid := coalesce(
        (SELECT substring(pg_get_constraintdef(oid) FROM '''([^'']+)''')::uuid FROM pg_constraint
         WHERE conname = ANY(ARRAY(SELECT name || '_bound' FROM unnest(partitioned_tables()) AS name)) LIMIT 1),
        first_job_at((date_trunc('month', now() AT TIME ZONE 'UTC')
            + CASE WHEN EXISTS (SELECT FROM jobs) THEN interval '2 months' ELSE interval '0' END) AT TIME ZONE 'UTC'));
    name text;
BEGIN
    FOREACH name IN ARRAY partitioned_tables() LOOP
        IF NOT EXISTS (SELECT FROM pg_constraint WHERE conname = name || '_bound')
           AND NOT EXISTS (SELECT FROM job_partitions AS p WHERE p.of_table = name) THEN
            EXECUTE format('ALTER TABLE %I ADD CONSTRAINT %I CHECK (job_id < %L) NOT VALID',
                name, name || '_bound', bound);
            COMMIT;
        END IF;
    END LOOP;
END $$;

-- next part
DO $$
DECLARE
    found record;
BEGIN
    FOR found IN SELECT conrelid::regclass AS of_table, conname FROM pg_constraint
                 WHERE NOT convalidated AND coninhcount = 0
                   AND conname = ANY(ARRAY(SELECT name || '_bound' FROM unnest(partitioned_tables()) AS name)) LOOP
        EXECUTE format('ALTER TABLE %s VALIDATE CONSTRAINT %I', found.of_table, found.conname);
        COMMIT;
    END LOOP;
END $$;

-- next part
SELECT pg_temp.become_partition('attempts');
CREATE OR REPLACE FUNCTION create_attempts_partitions() RETURNS void LANGUAGE sql
SECURITY DEFINER SET search_path = public, pg_temp AS 'SELECT make_partitions()'; -- for schedulers of the release before

-- next part
SELECT pg_temp.become_partition('stage_stats');

-- next part
-- A function's body keeps the tables that it was made with: those that read a partitioned table are made again.
SELECT pg_temp.become_partition('stage_counters');
CREATE OR REPLACE FUNCTION stage_sums(of_job uuid, of_stage smallint) RETURNS TABLE (
    ready bigint, queued bigint, running bigint, succeeded bigint, failed bigint, cancelled bigint,
    attempts bigint, busy_seconds double precision, task_seconds double precision,
    records_in bigint, records_out bigint, records_rejected bigint, records_filtered bigint, records_added bigint
) LANGUAGE sql STABLE PARALLEL SAFE BEGIN ATOMIC
    SELECT coalesce(sum(c.ready), 0)::bigint, coalesce(sum(c.queued), 0)::bigint, coalesce(sum(c.running), 0)::bigint,
        coalesce(sum(c.succeeded), 0)::bigint, coalesce(sum(c.failed), 0)::bigint,
        coalesce(sum(c.cancelled), 0)::bigint, coalesce(sum(c.attempts), 0)::bigint,
        coalesce(sum(c.busy_seconds), 0), sum(c.busy_seconds) / nullif(sum(c.attempts), 0)::double precision,
        coalesce(sum(c.records_in), 0)::bigint, coalesce(sum(c.records_out), 0)::bigint,
        coalesce(sum(c.records_rejected), 0)::bigint, coalesce(sum(c.records_filtered), 0)::bigint,
        coalesce(sum(c.records_added), 0)::bigint
    FROM stage_counters AS c WHERE c.job_id = of_job AND c.stage = of_stage;
END;

-- next part
SELECT pg_temp.become_partition('tasks');
CREATE OR REPLACE FUNCTION is_full(of_job uuid, of_stage smallint, ready_max bigint) RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE BEGIN ATOMIC
    SELECT coalesce((
        SELECT CASE
            WHEN s.state <> 'running' OR s.columns_due OR s.barrier AND s.tasks_from <> 'outputs' THEN false
            WHEN c.ready < most.tasks THEN false
            ELSE (SELECT count(*) FROM (
                SELECT FROM tasks AS t WHERE t.job_id = s.job_id AND t.stage = s.stage AND t.ready_at > now()
                LIMIT c.ready - most.tasks + 1) AS not_due) <= c.ready - most.tasks
            END
        FROM stages AS s CROSS JOIN LATERAL stage_sums(s.job_id, s.stage) AS c
        CROSS JOIN LATERAL (
            SELECT greatest(ready_max, 100 * (SELECT p.slots FROM pool_slots(s.pool) AS p)) AS tasks
        ) AS most
        WHERE s.job_id = of_job AND s.stage = of_stage), false);
END;

-- next part
SELECT make_partitions();

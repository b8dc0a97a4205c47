-- As before; but a month's name tells its bounds, which are not parsed: an hourly look has a new session, and is cold.
CREATE OR REPLACE VIEW job_partitions AS
    SELECT of.of_table, of.partition, of.month,
        CASE of.month WHEN 'first' THEN repeat('0', 32)::uuid
            ELSE first_job_at(to_date(of.month, 'YYYY_MM')::timestamp AT TIME ZONE 'UTC') END AS first_job,
        CASE of.month WHEN 'first' THEN substring(of.bound FROM 'TO \(''([0-9a-f-]{36})')::uuid
            ELSE first_job_at((to_date(of.month, 'YYYY_MM') + interval '1 month') AT TIME ZONE 'UTC') END AS until_job
    FROM (
        SELECT parent.relname::text AS of_table, part.relname::text AS partition,
            substr(part.relname, length(parent.relname) + 2) AS month, pg_get_expr(part.relpartbound, part.oid) AS bound
        FROM pg_class AS parent JOIN pg_inherits AS i ON i.inhparent = parent.oid
        JOIN pg_class AS part ON part.oid = i.inhrelid
        WHERE parent.relname = ANY(partitioned_tables()) AND parent.relkind = 'p'
          AND parent.relnamespace = 'public'::regnamespace
    ) AS of WHERE of.month <> 'default';

-- As before, but all that are there are known by their names.
CREATE OR REPLACE FUNCTION make_partitions() RETURNS boolean LANGUAGE plpgsql
SECURITY DEFINER SET search_path = public, pg_temp SET lock_timeout = '500ms' AS $$
BEGIN
    PERFORM make_partition(of_table, month)
        FROM generate_series(0, 3) AS ahead
        CROSS JOIN LATERAL (SELECT date_trunc('month', now() AT TIME ZONE 'UTC') + ahead * interval '1 month') AS of (at)
        CROSS JOIN LATERAL (SELECT of.at AT TIME ZONE 'UTC') AS starts (month)
        CROSS JOIN unnest(partitioned_tables()) AS of_table
        WHERE to_regclass(of_table || to_char(of.at, '_YYYY_MM')) IS NULL;
    RETURN true;
EXCEPTION WHEN lock_not_available THEN
    RETURN false;
END $$;

-- As before, but what may go is found by one statement.
CREATE OR REPLACE FUNCTION drop_partitions() RETURNS SETOF text LANGUAGE plpgsql
SECURITY DEFINER SET search_path = public, pg_temp SET lock_timeout = '50ms' AS $$
DECLARE
    part record;
    due boolean;
BEGIN
    FOR part IN
        WITH past AS MATERIALIZED (
            SELECT p.* FROM job_partitions AS p WHERE p.until_job <= first_job_at(now() - interval '1 day')
        )
        SELECT p.of_table, p.partition, p.month,
            EXISTS (SELECT FROM past AS a WHERE a.of_table = 'attempts' AND a.month = p.month) AS has_attempts
        FROM past AS p WHERE NOT jobs_need_rows(p.first_job, p.until_job)
        ORDER BY p.until_job, array_position(partitioned_tables(), p.of_table)
    LOOP
        IF part.of_table = 'attempts' THEN
            EXECUTE format('SELECT NOT EXISTS (SELECT FROM %I AS a WHERE a.txid >= w.txid)
                OR w.txid = ''0'' AND EXISTS (SELECT FROM left_rows AS l WHERE l.month = $1)
                FROM stats_watermark AS w', part.partition) INTO due USING part.month;
        ELSE
            due := NOT part.has_attempts;
        END IF;
        CONTINUE WHEN NOT due;
        FOR try IN 1..10 LOOP
            BEGIN
                EXECUTE format('DROP TABLE %I', part.partition);
                RETURN NEXT part.partition;
                RETURN;
            EXCEPTION WHEN lock_not_available THEN
                PERFORM pg_sleep(0.1);
            END;
        END LOOP;
        RETURN;
    END LOOP;
END $$;

-- As before; but the stages are found by themselves (index stages_unplanned), not by those of all running jobs. A stage
-- that has ended is planned, or its job does not run.
CREATE OR REPLACE VIEW stages_to_chain AS
    SELECT s.job_id, s.stage, s.kind, s.pool, s.tasks_from, s.barrier, s.resplit, s.fan_in, s.plan_cursor, s.task_count,
        s.put_off_at, j.priority, b.state AS before_state, b.planned AS before_planned, b.result AS before_result
    FROM stages AS s JOIN jobs AS j USING (job_id) JOIN stages AS b ON b.job_id = s.job_id AND b.stage = s.stage - 1
    WHERE j.state = 'running' AND NOT s.planned AND s.tasks_from <> 'successes' AND s.state IN ('waiting', 'running');

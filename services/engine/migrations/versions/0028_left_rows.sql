-- Past months in whose partitions jobs that are forgotten have left rows. These go with the month; if it is still there
-- after a while, since a job of it is held or kept longer, they are swept, job by job.
CREATE TABLE left_rows (
    month text PRIMARY KEY,             -- as in job_partitions
    first_job uuid NOT NULL,
    until_job uuid NOT NULL,
    since timestamptz NOT NULL DEFAULT now(), -- when the first were left, or the last sweep began
    swept_to uuid,                      -- the last job of which a sweep has seen to the rows; null: none is under way
    held_until timestamptz NOT NULL DEFAULT '-infinity' -- by the scheduler that sweeps
);

-- The partitioned month of a job, if it is over: it gets no more jobs, and goes when none of them is left.
CREATE FUNCTION past_month(of_job uuid) RETURNS TABLE (month text, first_job uuid, until_job uuid)
LANGUAGE sql STABLE PARALLEL SAFE BEGIN ATOMIC
    SELECT p.month, p.first_job, p.until_job FROM job_partitions AS p
    WHERE p.of_table = 'tasks' AND p.first_job <= of_job AND p.until_job > of_job
      AND p.until_job <= first_job_at(now() - interval '1 day');
END;

-- As before, but nobody ever waits behind it for longer than 50 ms: it gives up, and tries again. Without a stats
-- service nothing is rolled up; then what jobs have left goes all the same.
CREATE OR REPLACE FUNCTION drop_partitions() RETURNS SETOF text LANGUAGE plpgsql
SECURITY DEFINER SET search_path = public, pg_temp SET lock_timeout = '50ms' AS $$
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
            EXECUTE format('SELECT NOT EXISTS (SELECT FROM %I AS a WHERE a.txid >= w.txid)
                OR w.txid = ''0'' AND EXISTS (SELECT FROM left_rows AS l WHERE l.month = $1)
                FROM stats_watermark AS w', part.partition) INTO due USING part.month;
        ELSE
            due := NOT EXISTS (SELECT FROM job_partitions AS a WHERE a.of_table = 'attempts' AND a.month = part.month);
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

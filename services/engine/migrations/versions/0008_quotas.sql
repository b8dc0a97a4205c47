-- How many tasks the stage will have: exact for arrays and lists, an estimate while an input of known size is split.
-- Null: not known before it is planned.
ALTER TABLE stages ADD COLUMN tasks_expected bigint;

-- Whether enough tasks of a stage are due, so that no more need be made yet: `ready_max`, or 100 for each slot of its pool.
-- Never of a stage whose first task waits for its last one: behind a barrier, or while its columns are not found.
-- Tasks that wait for a backoff or for a lost output don't count: they may wait for the very stage that makes more.
CREATE FUNCTION is_full(of_job uuid, of_stage smallint, ready_max bigint) RETURNS boolean
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

-- What keys and shares may use at a time where it is not what the settings say: {"jobs_max": 10, …}.
ALTER TABLE api_keys ADD COLUMN quotas jsonb NOT NULL DEFAULT '{}';
CREATE TABLE shares (
    name text PRIMARY KEY,
    quotas jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now()
);

-- Whose quotas count: those of the key that submitted it, or that made its schedule or trigger. Null: of the share only.
ALTER TABLE jobs
    ADD COLUMN key_id uuid,
    ADD COLUMN tasks_known bigint NOT NULL DEFAULT 0; -- of all stages, as far as known at submission
ALTER TABLE schedules
    ADD COLUMN key_id uuid,
    ADD COLUMN put_off_at timestamptz;  -- when a due run last was over a quota; null: it ran since
ALTER TABLE triggers ADD COLUMN key_id uuid;
ALTER TABLE uploads ADD COLUMN key_id uuid;

-- What several statements say alike. The planner puts a function's body in the place of its call: a statement that uses
-- one has the plan of the statement written out.

-- What only workers read of a stage (services/engine/spec.py: StageOptions). Null: the release before has submitted
-- the job, and the columns of the same names tell. This release writes both: workers of the release before read those.
ALTER TABLE stages ADD COLUMN options jsonb;

-- A counter's shard: 0 is the scheduler's, workers spread over those after it.
ALTER TABLE stage_counters ALTER COLUMN slot SET DEFAULT 0;

-- A stage's counters: the sums over their shards. task_seconds is the mean run time; null: nothing has ended yet.
CREATE FUNCTION stage_sums(of_job uuid, of_stage smallint) RETURNS TABLE (
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

-- The stages whose tasks are being worked on, with their sums.
CREATE VIEW running_stages AS
    SELECT s.job_id, s.stage, s.name, s.pool, s.processor, s.processor_version, s.planned, s.task_count,
        s.tolerated_failures, s.max_attempts, s.retry_budget, j.priority, j.share, c.*
    FROM jobs AS j JOIN stages AS s USING (job_id) CROSS JOIN LATERAL stage_sums(s.job_id, s.stage) AS c
    WHERE j.state = 'running' AND s.state = 'running';

-- The slots for which a stage is cut into parts: those at work in its pool, or those of a full pool if it may grow.
CREATE FUNCTION pool_slots(of_pool text) RETURNS TABLE (slots bigint) LANGUAGE sql STABLE PARALLEL SAFE BEGIN ATOMIC
    SELECT greatest(p.slots * greatest(p.capacity_max, 1),
        (SELECT sum(w.slots) FROM workers AS w WHERE w.pool = p.name AND w.state = 'active'))
    FROM pools AS p WHERE p.name = of_pool;
END;

-- The input of the task that works on another task's output.
CREATE FUNCTION output_as_input(output jsonb) RETURNS jsonb LANGUAGE sql STABLE PARALLEL SAFE RETURN CASE
    WHEN output ? 'uri' THEN jsonb_build_object('type', 'object', 'uri', output -> 'uri')
    ELSE jsonb_build_object('type', 'item', 'value', output -> 'value')
END;

-- Whether a bundle's tasks are stragglers: it has been held for far longer than all of them take, one after the other.
CREATE FUNCTION is_late(claimed_at timestamptz, tasks integer, seconds_min double precision,
    task_seconds_max double precision) RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE
    RETURN claimed_at < now() - greatest(seconds_min, task_seconds_max * tasks) * interval '1 second';

-- The workers that have lived since then, with what they did, and the slot-seconds they had and used. A task that runs
-- is in no minute yet: its bundle's age stands in for it, of the oldest bundles up to the slots in use. Only bundles of
-- one task count, since those of many are short; they would count what their first tasks have already recorded.
CREATE FUNCTION workers_since(since timestamptz) RETURNS TABLE (
    worker_id uuid, pool text, hostname text, state text, live boolean, slots integer, busy integer,
    heartbeat_at timestamptz, slot_seconds double precision, tasks_succeeded bigint, tasks_failed bigint,
    busy_seconds double precision
) LANGUAGE sql STABLE PARALLEL SAFE BEGIN ATOMIC
    WITH lived AS (
        SELECT w.*, w.state IN ('active', 'draining') AS live, w.slots * greatest(0, extract(epoch FROM
            CASE w.state WHEN 'lost' THEN w.heartbeat_at WHEN 'stopped' THEN w.stopped_at ELSE now() END
            - greatest(w.started_at, since)))::float8 AS slot_seconds
        FROM workers AS w WHERE w.state IN ('active', 'draining') OR w.stopped_at >= since
    ), ended AS (
        SELECT m.worker_id, sum(m.succeeded) AS succeeded, sum(m.failed) AS failed, sum(m.busy_seconds) AS busy_seconds
        FROM worker_minutes AS m WHERE m.minute >= since GROUP BY m.worker_id
    ), held AS (
        SELECT b.worker_id, extract(epoch FROM now() - greatest(b.claimed_at, since))::float8 AS seconds,
            row_number() OVER (PARTITION BY b.worker_id ORDER BY b.claimed_at) AS place
        FROM bundles AS b WHERE b.worker_id IS NOT NULL AND b.count = 1
    ), running AS (
        SELECT h.worker_id, sum(h.seconds) AS busy_seconds
        FROM held AS h JOIN lived AS l ON l.worker_id = h.worker_id WHERE h.place <= l.busy GROUP BY h.worker_id
    )
    SELECT l.worker_id, l.pool, l.hostname, l.state, l.live, l.slots, l.busy, l.heartbeat_at, l.slot_seconds,
        coalesce(e.succeeded, 0)::bigint, coalesce(e.failed, 0)::bigint,
        least(coalesce(e.busy_seconds, 0) + coalesce(r.busy_seconds, 0), l.slot_seconds)
    FROM lived AS l LEFT JOIN ended AS e ON e.worker_id = l.worker_id
    LEFT JOIN running AS r ON r.worker_id = l.worker_id;
END;

-- The stages of running jobs that are not planned yet, but for each job's first, beside the stage before.
CREATE VIEW stages_to_chain AS
    SELECT s.job_id, s.stage, s.kind, s.pool, s.tasks_from, s.barrier, s.resplit, s.fan_in, s.plan_cursor, s.task_count,
        s.put_off_at, j.priority, b.state AS before_state, b.planned AS before_planned, b.result AS before_result
    FROM jobs AS j JOIN stages AS s USING (job_id) JOIN stages AS b ON b.job_id = s.job_id AND b.stage = s.stage - 1
    WHERE j.state = 'running' AND NOT s.planned AND s.tasks_from <> 'successes';

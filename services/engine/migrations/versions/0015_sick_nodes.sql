-- Nodes that can't run tasks: what they could not do is no failure of a task, and they are replaced.

-- Why a worker took itself out of service: its node could not run tasks. Null: it did not.
ALTER TABLE workers ADD COLUMN quarantine text;

-- A worker that could not run the bundle's task, or lost it: another one takes it, as long as there is one.
ALTER TABLE bundles ADD COLUMN avoid uuid;

-- Seconds of attempts that did not succeed (part of busy_seconds), so that a task's time is learned from successes only.
ALTER TABLE stage_counters ADD COLUMN wasted_seconds double precision NOT NULL DEFAULT 0;

-- As in migration 0002, but task_seconds is the mean of the successes; null: nothing has succeeded yet.
CREATE OR REPLACE FUNCTION stage_sums(of_job uuid, of_stage smallint) RETURNS TABLE (
    ready bigint, queued bigint, running bigint, succeeded bigint, failed bigint, cancelled bigint,
    attempts bigint, busy_seconds double precision, task_seconds double precision,
    records_in bigint, records_out bigint, records_rejected bigint, records_filtered bigint, records_added bigint
) LANGUAGE sql STABLE PARALLEL SAFE BEGIN ATOMIC
    SELECT coalesce(sum(c.ready), 0)::bigint, coalesce(sum(c.queued), 0)::bigint, coalesce(sum(c.running), 0)::bigint,
        coalesce(sum(c.succeeded), 0)::bigint, coalesce(sum(c.failed), 0)::bigint,
        coalesce(sum(c.cancelled), 0)::bigint, coalesce(sum(c.attempts), 0)::bigint,
        coalesce(sum(c.busy_seconds), 0),
        greatest(sum(c.busy_seconds - c.wasted_seconds), 0) / nullif(sum(c.succeeded), 0)::double precision,
        coalesce(sum(c.records_in), 0)::bigint, coalesce(sum(c.records_out), 0)::bigint,
        coalesce(sum(c.records_rejected), 0)::bigint, coalesce(sum(c.records_filtered), 0)::bigint,
        coalesce(sum(c.records_added), 0)::bigint
    FROM stage_counters AS c WHERE c.job_id = of_job AND c.stage = of_stage;
END;

-- What the scheduler saw of a pool's Auto Scaling group when it last looked (pools.scaled_at).
ALTER TABLE pools
    ADD COLUMN scaling_error text,                  -- why the group could not be read or changed; null: it could
    ADD COLUMN scaling_error_since timestamptz,
    ADD COLUMN instances integer,                   -- in the group, those that are starting included; null: unknown
    ADD COLUMN instances_missing integer NOT NULL DEFAULT 0, -- of these, those without a live worker
    ADD COLUMN instances_missing_since timestamptz, -- since when the oldest of them is
    ADD COLUMN replacements integer NOT NULL DEFAULT 0, -- rounds in which instances were replaced, one soon after another
    ADD COLUMN replace_at timestamptz;              -- no further instance is replaced before

-- The instances of the pools' groups. One without a live worker is missing.
CREATE TABLE instances (
    instance_id text PRIMARY KEY,
    pool text NOT NULL,
    missing_since timestamptz
);
CREATE INDEX instances_pool ON instances (pool);

-- What a retry has changed of a stage. `revision` counts such retries: what was read or planned before is out of date.
-- `attempt_base` is the highest number of an attempt of tasks that are gone: those of new tasks come after it, so that
-- it still fences, and names other objects. `processors_before`: [{"processor", "until"}], the oldest first.
ALTER TABLE stages
    ADD COLUMN revision integer NOT NULL DEFAULT 0,
    ADD COLUMN attempt_base smallint NOT NULL DEFAULT 0,
    ADD COLUMN processors_before jsonb;

CREATE OR REPLACE VIEW stages_to_chain AS
    SELECT s.job_id, s.stage, s.kind, s.pool, s.tasks_from, s.barrier, s.resplit, s.fan_in, s.plan_cursor, s.task_count,
        s.put_off_at, j.priority, b.state AS before_state, b.planned AS before_planned, b.result AS before_result,
        s.revision
    FROM stages AS s JOIN jobs AS j USING (job_id) JOIN stages AS b ON b.job_id = s.job_id AND b.stage = s.stage - 1
    WHERE j.state = 'running' AND NOT s.planned AND s.tasks_from <> 'successes' AND s.state IN ('waiting', 'running');

CREATE OR REPLACE FUNCTION continue_attempts() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.attempt := greatest(NEW.attempt, TG_ARGV[0]::smallint);
    RETURN NEW;
END $$;

-- An object as it is now, whatever it was when a task was planned.
CREATE FUNCTION unpinned(object jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN
    CASE WHEN object ? 'version' THEN object ELSE object - 'etag' - 'bytes' - 'crc32' END;

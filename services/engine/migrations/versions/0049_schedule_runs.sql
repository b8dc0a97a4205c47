-- What became of each run of a schedule, by the time at which it was due. A run of an earlier release has only its job.
CREATE TABLE schedule_runs (
    schedule_id uuid NOT NULL REFERENCES schedules ON DELETE CASCADE,
    scheduled_at timestamptz NOT NULL,
    state text NOT NULL CHECK (state IN ('waiting', 'submitted', 'skipped', 'refused')),
    origin text NOT NULL,               -- clock, request
    reason text,                        -- why it was skipped: missed, paused, request
    error text,                         -- why its job was refused
    job_id uuid,
    decided_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (schedule_id, scheduled_at)
);

ALTER TABLE schedules ADD COLUMN paused_at timestamptz; -- what came due since then is missed because of the pause

-- When each of the scheduler's loops last went well, whichever scheduler ran it, and its error if it fails since.
CREATE TABLE scheduler_loops (
    loop text PRIMARY KEY,
    stepped_at timestamptz,
    error text
);

ALTER TABLE jobs ADD COLUMN paused_at timestamptz;
ALTER TABLE pools
    ADD COLUMN paused_at timestamptz,
    ADD COLUMN queue_error text,            -- why SQS takes no messages; null: it took the last ones
    ADD COLUMN queue_error_at timestamptz;  -- since when
ALTER TABLE stages
    ADD COLUMN put_off_since timestamptz,   -- the first time of those in a row that end with put_off_at
    ADD COLUMN put_off_error text,
    ADD COLUMN tasks_at timestamptz;        -- when its first tasks were planned; null: they follow others one by one
ALTER TABLE bundles
    ADD COLUMN queued_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN put_off_error text;          -- what the worker lacks that put it off

-- What of run_seconds was spent on the input, and on the outputs and the log. Null: the worker does not say.
ALTER TABLE attempts
    ADD COLUMN fetch_seconds double precision,
    ADD COLUMN put_seconds double precision;
ALTER TABLE stage_stats
    ADD COLUMN fetch_seconds double precision NOT NULL DEFAULT 0,
    ADD COLUMN put_seconds double precision NOT NULL DEFAULT 0,
    ADD COLUMN last_finished_at timestamptz, -- of the attempt that ended last
    ADD COLUMN last_index integer;           -- its task

-- Ranges of a schedule's past times whose runs are made up for, a number of them at once.
CREATE TABLE schedule_backfills (
    backfill_id uuid PRIMARY KEY,
    schedule_id uuid NOT NULL REFERENCES schedules ON DELETE CASCADE,
    since timestamptz NOT NULL,
    until timestamptz NOT NULL,
    running_max integer NOT NULL,
    cancelled boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now(),
    created_by text NOT NULL,
    ended_at timestamptz                -- null: runs of it wait
);
CREATE INDEX schedule_backfills_schedule ON schedule_backfills (schedule_id, backfill_id);
CREATE INDEX schedule_backfills_active ON schedule_backfills (backfill_id) WHERE ended_at IS NULL;

ALTER TABLE schedule_runs ADD COLUMN backfill_id uuid;

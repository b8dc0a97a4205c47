-- An endpoint that fails is paused, is tried by single deliveries, and is disabled when it has failed for days.
ALTER TABLE webhook_endpoints
    ADD COLUMN failures integer NOT NULL DEFAULT 0, -- tries that failed since the last one that went well
    ADD COLUMN failing_since timestamptz,           -- when the first of them failed
    ADD COLUMN pauses integer NOT NULL DEFAULT 0,   -- how often it was paused since then: each is longer
    ADD COLUMN paused_until timestamptz,            -- null: it takes deliveries; in the past: one, to see if it does
    ADD COLUMN last_error text,
    ADD COLUMN disabled_at timestamptz,             -- set with `enabled = false`
    ADD COLUMN disabled_reason text;

-- A merge belongs to one scheduler until then; another takes it over later. Null: it waits for a place.
ALTER TABLE stages
    ADD COLUMN merge_id uuid,
    ADD COLUMN merge_until timestamptz;

-- Runs that were missed, and that `misfire` says not to make up for.
ALTER TABLE schedules
    ADD COLUMN runs_skipped bigint NOT NULL DEFAULT 0,
    ADD COLUMN last_skipped_at timestamptz; -- when the last of them was due

ALTER TABLE triggers
    ADD COLUMN unreadable_since timestamptz, -- null: its queue was read the last time
    ADD COLUMN lag_seconds double precision; -- how long the last message that was received had waited in its queue

-- When schedulers looked for due schedules. A run that came due while they looked is not missed, however late it is.
CREATE TABLE clock (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    looked_at timestamptz NOT NULL DEFAULT '-infinity',
    looking_since timestamptz NOT NULL DEFAULT '-infinity' -- no gap between two looks was long since then
);
INSERT INTO clock DEFAULT VALUES;

-- The schedulers that run, which share triggers among themselves.
CREATE TABLE schedulers (
    scheduler_id uuid PRIMARY KEY,
    hostname text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    heartbeat_at timestamptz NOT NULL DEFAULT now()
);

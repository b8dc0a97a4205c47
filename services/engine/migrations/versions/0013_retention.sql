-- How long what jobs leave is kept. For each part of a job: what the job itself says; else, of the rules whose labels it
-- has, the one that keeps longest; else what `default` says.
CREATE TABLE retention_rules (
    name text PRIMARY KEY,
    labels jsonb NOT NULL DEFAULT '{}',     -- that a job must have; those of `default` are empty
    keep jsonb NOT NULL,                    -- {"interim": 86400, "results": "forever", …}: seconds from the job's end
    revision bigint NOT NULL DEFAULT 1,     -- of `default`: raised with each change of any rule
    created_at timestamptz NOT NULL DEFAULT now()
);
-- A grid that has jobs keeps what they left until an operator says otherwise.
INSERT INTO retention_rules (name, keep) SELECT 'default', CASE WHEN EXISTS (SELECT FROM jobs)
    THEN '{"interim": "forever", "results": "forever", "records": "forever"}'::jsonb
    ELSE '{"interim": 86400, "results": "forever", "records": 7776000}'::jsonb END;

ALTER TABLE jobs
    ADD COLUMN hold boolean NOT NULL DEFAULT false,     -- nothing of it is deleted
    ADD COLUMN keep_revision bigint NOT NULL DEFAULT 0, -- of the rules by which `expires_at` was found; 0: not found yet
    ADD COLUMN expires_at timestamptz,                  -- when something of it is to be deleted; null: nothing
    ADD COLUMN interim_deleted_at timestamptz,          -- since then its interim data go, or are gone
    ADD COLUMN results_deleted_at timestamptz,
    ADD COLUMN deleted_at timestamptz,                  -- since then all of it goes
    ADD COLUMN deletion jsonb;                          -- what is being deleted, and how far that has come

-- What must be known of jobs that were deleted: where their results are, and which messages had made triggers submit
-- them, since SQS keeps a message for up to 14 days.
CREATE TABLE deleted_jobs (
    job_id uuid PRIMARY KEY,
    name text NOT NULL,
    share text NOT NULL,
    labels jsonb NOT NULL,
    created_by text,
    trigger_id uuid,
    trigger_message text,
    results_stage smallint,                 -- the stage whose outputs are results, since nothing merges them
    result jsonb,                           -- as in stages; null: no results are kept
    created_at timestamptz NOT NULL,
    finished_at timestamptz,
    deleted_at timestamptz NOT NULL,
    expires_at timestamptz                  -- when its results go or, without any, this row; null: never
);
CREATE UNIQUE INDEX deleted_jobs_trigger ON deleted_jobs (trigger_id, trigger_message) WHERE trigger_id IS NOT NULL;
CREATE INDEX deleted_jobs_expire ON deleted_jobs (expires_at) WHERE expires_at IS NOT NULL;

-- After the insert: by then a deletion that was under way has ended, and is seen.
CREATE FUNCTION refuse_repeated_message() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM deleted_jobs AS d
        WHERE d.trigger_id = NEW.trigger_id AND d.trigger_message = NEW.trigger_message) THEN
        RAISE EXCEPTION 'the message % has made a job that was deleted', NEW.trigger_message
            USING ERRCODE = 'unique_violation', CONSTRAINT = 'jobs_trigger_run';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER jobs_trigger_once AFTER INSERT ON jobs
    FOR EACH ROW WHEN (NEW.trigger_id IS NOT NULL) EXECUTE FUNCTION refuse_repeated_message();

-- For how many seconds the value of a rule or job keeps a part; null: it does not say.
CREATE FUNCTION seconds_kept(keep jsonb, part text) RETURNS double precision LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN keep ->> part = 'forever' THEN 'infinity' ELSE (keep ->> part)::double precision END;

CREATE FUNCTION kept_until(own jsonb, of_labels jsonb, since timestamptz, part text) RETURNS timestamptz
LANGUAGE sql STABLE PARALLEL SAFE BEGIN ATOMIC
    SELECT CASE WHEN k.seconds < 'infinity' THEN since + k.seconds * interval '1 second' ELSE 'infinity' END
    FROM (SELECT coalesce(
        seconds_kept(own, part),
        (SELECT max(seconds_kept(r.keep, part)) FROM retention_rules AS r
            WHERE r.name <> 'default' AND of_labels @> r.labels),
        (SELECT seconds_kept(r.keep, part) FROM retention_rules AS r WHERE r.name = 'default')
    ) AS seconds) AS k;
END;

-- Until when each part of the jobs that have ended is kept; infinity: for ever, or it is gone.
CREATE VIEW kept_jobs AS
    SELECT j.job_id,
        CASE WHEN j.interim_deleted_at >= j.finished_at THEN 'infinity'
            ELSE kept_until(j.spec -> 'keep', j.labels, j.finished_at, 'interim') END AS interim_until,
        CASE WHEN j.results_deleted_at >= j.finished_at THEN 'infinity'
            ELSE kept_until(j.spec -> 'keep', j.labels, j.finished_at, 'results') END AS results_until,
        kept_until(j.spec -> 'keep', j.labels, j.finished_at, 'records') AS records_until,
        CASE WHEN j.spec ->> 'output_queue' IS NOT NULL THEN -1
            WHEN coalesce(j.spec -> 'merge' ->> 'type', 'none') = 'none'
            THEN (SELECT max(s.stage) FROM stages AS s WHERE s.job_id = j.job_id) END AS results_stage
    FROM jobs AS j WHERE j.finished_at IS NOT NULL AND j.state IN ('succeeded', 'failed', 'cancelled');

-- A version that was deleted still tells what has run; its number is not given again.
ALTER TABLE processors ADD COLUMN deleted_at timestamptz;

CREATE TABLE packages (
    sha256 text PRIMARY KEY,
    bytes bigint,                           -- null: pushed before this table was there
    created_by text,
    pushed_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz                  -- since then its object goes, or is gone
);
INSERT INTO packages (sha256) SELECT DISTINCT spec ->> 'package' FROM processors WHERE spec ->> 'package' IS NOT NULL;

ALTER TABLE uploads
    ADD COLUMN used_at timestamptz,         -- when a job, schedule or trigger last named it
    ADD COLUMN removed_at timestamptz;      -- since then its objects are gone

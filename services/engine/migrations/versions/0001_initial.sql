CREATE TABLE processors (
    name text NOT NULL,
    version integer NOT NULL,
    spec jsonb NOT NULL,
    description text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (name, version)
);
INSERT INTO processors (name, version, spec, description) VALUES
    ('piecework-split', 1, '{"builtin": "split"}', 'Splits inputs of which every byte has to be read'),
    ('piecework-compact', 1, '{"builtin": "compact", "output": "result.parquet", "output_format": "parquet"}',
        'Joins outputs to one Parquet object');

CREATE TABLE pools (
    name text PRIMARY KEY,
    queue_url text NOT NULL,
    dead_letter_url text NOT NULL,
    group_name text,                    -- Auto Scaling group; null: not scaled by us
    capacity_min integer NOT NULL DEFAULT 0,
    capacity_max integer NOT NULL DEFAULT 0,
    capacity_desired integer NOT NULL DEFAULT 0,
    slots integer NOT NULL DEFAULT 2,   -- slots of one worker, for scaling before any has registered
    paused boolean NOT NULL DEFAULT false,
    scaled_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE workers (
    worker_id uuid PRIMARY KEY,
    pool text NOT NULL,
    hostname text NOT NULL,
    instance_id text,
    pid integer NOT NULL,
    slots integer NOT NULL,
    busy integer NOT NULL DEFAULT 0,
    state text NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'draining', 'stopped', 'lost')),
    started_at timestamptz NOT NULL DEFAULT now(),
    heartbeat_at timestamptz NOT NULL DEFAULT now(),
    stopped_at timestamptz,
    idle_since timestamptz DEFAULT now() -- null while a slot is busy
);
CREATE INDEX workers_live ON workers (pool) WHERE state IN ('active', 'draining');

CREATE TABLE schedules (
    schedule_id uuid PRIMARY KEY,
    name text NOT NULL UNIQUE,
    cron text NOT NULL,
    time_zone text NOT NULL,
    misfire text NOT NULL CHECK (misfire IN ('run_once', 'run_all', 'skip')),
    job jsonb NOT NULL,
    paused boolean NOT NULL DEFAULT false,
    next_run_at timestamptz,
    last_run_at timestamptz,
    last_job_id uuid,
    error text,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE triggers (
    trigger_id uuid PRIMARY KEY,
    name text NOT NULL UNIQUE,
    queue_url text NOT NULL,
    prefix text NOT NULL DEFAULT '',    -- of the objects whose events count: s3://bucket/prefix; '': all messages
    suffix text NOT NULL DEFAULT '',
    match jsonb NOT NULL DEFAULT '{}',  -- fields by dotted path, and what they must be: other messages are dropped
    job jsonb NOT NULL,                 -- a job specification with {placeholders}
    paused boolean NOT NULL DEFAULT false,
    last_job_id uuid,
    last_message_at timestamptz,        -- of the last message that was taken
    last_error text,                    -- kept after what came later went well: the times tell
    last_error_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE jobs (
    job_id uuid PRIMARY KEY,
    name text NOT NULL,
    spec jsonb NOT NULL,
    state text NOT NULL CHECK (state IN
        ('scheduled', 'running', 'paused', 'cancelling', 'failing', 'succeeded', 'failed', 'cancelled')),
    priority integer NOT NULL DEFAULT 0,
    share text NOT NULL DEFAULT 'default',
    labels jsonb NOT NULL DEFAULT '{}',
    schedule_id uuid,
    trigger_id uuid,
    trigger_message text,               -- id of the message that made the trigger submit the job
    run_at timestamptz,                 -- start no earlier
    error jsonb,                        -- {"type", "message", ...}
    created_at timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz,
    finished_at timestamptz
);
CREATE INDEX jobs_active ON jobs (state) WHERE state NOT IN ('succeeded', 'failed', 'cancelled');
CREATE INDEX jobs_labels ON jobs USING gin (labels jsonb_path_ops);
CREATE UNIQUE INDEX jobs_schedule_run ON jobs (schedule_id, run_at) WHERE schedule_id IS NOT NULL;
CREATE UNIQUE INDEX jobs_trigger_run ON jobs (trigger_id, trigger_message) WHERE trigger_id IS NOT NULL;

CREATE TABLE stages (
    job_id uuid NOT NULL REFERENCES jobs ON DELETE CASCADE,
    stage smallint NOT NULL,
    name text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('map', 'reduce', 'split')),
    processor text NOT NULL,
    processor_version integer NOT NULL,
    params jsonb NOT NULL DEFAULT '{}',
    inputs jsonb NOT NULL DEFAULT '{}', -- URIs of the objects that the processor declares, by name
    pool text NOT NULL,
    tasks_from text NOT NULL CHECK (tasks_from IN ('input', 'successes', 'outputs', 'items', 'resplit', 'reduce')),
    resplit jsonb,
    fan_in integer,                     -- of a reduce
    barrier boolean NOT NULL DEFAULT false,
    fan_out boolean NOT NULL DEFAULT false,
    output_queue text,
    state text NOT NULL DEFAULT 'waiting' CHECK (state IN
        ('waiting', 'running', 'merging', 'succeeded', 'failed', 'cancelled')),
    chains boolean NOT NULL DEFAULT false, -- a success makes the task of the same index in the next stage
    planned boolean NOT NULL DEFAULT false,
    plan_cursor jsonb,
    task_count bigint NOT NULL DEFAULT 0,
    put_off_at timestamptz,             -- when its planning or merge last failed for what passes; null: it got on since
    max_attempts integer NOT NULL,
    backoff_seconds double precision NOT NULL,
    backoff_max_seconds double precision NOT NULL,
    retry_budget bigint NOT NULL DEFAULT 100, -- failed attempts beyond its successes before the stage is slowed down
    timeout_seconds double precision NOT NULL,
    memory_bytes bigint,
    tolerated_failures bigint NOT NULL,
    rejects_max bigint,
    result jsonb,                       -- {"files": [{"name", "uri", "bytes"}], "manifest": uri}
    started_at timestamptz,
    finished_at timestamptz,
    PRIMARY KEY (job_id, stage)
);
CREATE INDEX stages_merging ON stages (job_id) WHERE state = 'merging'; -- else all that are kept are read to find them

CREATE TABLE tasks (
    job_id uuid NOT NULL,
    stage smallint NOT NULL,
    index integer NOT NULL,
    state text NOT NULL CHECK (state IN ('ready', 'queued', 'running', 'succeeded', 'failed', 'cancelled')),
    attempt smallint NOT NULL DEFAULT 0,
    failures smallint NOT NULL DEFAULT 0,
    losses smallint NOT NULL DEFAULT 0,
    worker_id uuid,
    ready_at timestamptz,               -- set only while the task is ready: rows leave tasks_ready with it
    queued_at timestamptz,
    started_at timestamptz,
    backup_attempt smallint,            -- a second attempt that races with the first, or has; at most one per claim
    backup_worker_id uuid,              -- set while it runs, and of the loser when the other has won
    backup_started_at timestamptz,
    finished_at timestamptz,
    input jsonb NOT NULL,
    output jsonb,                       -- {"uri", "bytes", "records", "rejects": uri} or {"value": ...}
    error jsonb,                        -- {"type", "message"}
    PRIMARY KEY (job_id, stage, index)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0,
        autovacuum_analyze_scale_factor = 0.05);
CREATE INDEX tasks_ready ON tasks (job_id, stage, ready_at, index) WHERE ready_at IS NOT NULL;
CREATE INDEX tasks_again ON tasks (job_id, stage, ready_at)
    WHERE ready_at IS NOT NULL AND (failures > 0 OR losses > 0);

-- A bundle is the range of tasks that one SQS message offers, and afterwards the lease of the worker that claimed it.
-- Each queued task is in one unclaimed bundle, each running task in one bundle of its worker.
CREATE TABLE bundles (
    bundle_id uuid PRIMARY KEY,
    pool text NOT NULL,
    job_id uuid NOT NULL,
    stage smallint NOT NULL,
    first integer NOT NULL,
    count integer NOT NULL,
    sends smallint NOT NULL DEFAULT 1,
    send_at timestamptz NOT NULL,       -- unclaimed: when to send again
    worker_id uuid,
    claimed_at timestamptz,
    suspect boolean NOT NULL DEFAULT false, -- its one task may be what kills its workers: each runs one such at a time
    backup_of uuid,                     -- the bundle offers, or holds, a backup attempt of this worker's task
    backed_up boolean NOT NULL DEFAULT false -- backups of what ran in it were offered
) WITH (fillfactor = 70);
CREATE INDEX bundles_job ON bundles (job_id, stage);
CREATE INDEX bundles_worker ON bundles (worker_id) WHERE worker_id IS NOT NULL;
CREATE INDEX bundles_pool ON bundles (pool) WHERE worker_id IS NULL;
CREATE INDEX bundles_send ON bundles (send_at) WHERE worker_id IS NULL;
CREATE INDEX bundles_raced ON bundles (bundle_id) WHERE backed_up OR backup_of IS NOT NULL;

CREATE TABLE stage_counters (
    job_id uuid NOT NULL,
    stage smallint NOT NULL,
    slot smallint NOT NULL,
    ready bigint NOT NULL DEFAULT 0,
    queued bigint NOT NULL DEFAULT 0,
    running bigint NOT NULL DEFAULT 0,
    succeeded bigint NOT NULL DEFAULT 0,
    failed bigint NOT NULL DEFAULT 0,
    cancelled bigint NOT NULL DEFAULT 0,
    attempts bigint NOT NULL DEFAULT 0,
    busy_seconds double precision NOT NULL DEFAULT 0,
    records_in bigint NOT NULL DEFAULT 0, -- of the attempts that won
    records_out bigint NOT NULL DEFAULT 0,
    records_rejected bigint NOT NULL DEFAULT 0,
    records_filtered bigint NOT NULL DEFAULT 0,
    records_added bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (job_id, stage, slot)
) WITH (fillfactor = 50);

CREATE TABLE attempts (
    job_id uuid NOT NULL,
    stage smallint NOT NULL,
    index integer NOT NULL,
    attempt smallint NOT NULL,
    worker_id uuid,
    pool text NOT NULL,
    outcome text NOT NULL,              -- succeeded, failed, lost, timeout, memory, cancelled, released
    started_at timestamptz NOT NULL,
    finished_at timestamptz NOT NULL,
    run_seconds double precision NOT NULL,
    exit_code integer,
    error jsonb,
    bytes_in bigint NOT NULL DEFAULT 0,
    bytes_out bigint NOT NULL DEFAULT 0,
    records_in bigint NOT NULL DEFAULT 0,
    records_out bigint NOT NULL DEFAULT 0,
    records_rejected bigint NOT NULL DEFAULT 0,
    records_filtered bigint NOT NULL DEFAULT 0, -- dropped on purpose
    records_added bigint NOT NULL DEFAULT 0,    -- by records of which more than one came
    cpu_seconds double precision NOT NULL DEFAULT 0,
    memory_bytes_peak bigint NOT NULL DEFAULT 0,
    log text,                           -- S3 URI of what the attempt printed
    txid xid8 NOT NULL DEFAULT pg_current_xact_id() -- the roll-up's watermark: exact under concurrent commits
) PARTITION BY RANGE (finished_at);
CREATE INDEX attempts_task ON attempts (job_id, stage, index);
CREATE INDEX attempts_txid ON attempts (txid);
CREATE TABLE attempts_default PARTITION OF attempts DEFAULT;

-- Partitions of this month and the next two, made ahead so that the default partition stays empty.
CREATE FUNCTION create_attempts_partitions() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    month timestamptz := date_trunc('month', now(), 'UTC');
BEGIN
    FOR i IN 0..2 LOOP
        EXECUTE format('CREATE TABLE IF NOT EXISTS %I PARTITION OF attempts FOR VALUES FROM (%L) TO (%L)',
            to_char(month AT TIME ZONE 'UTC', '"attempts_"YYYY_MM'), month, date_trunc('month', month + interval '32 days', 'UTC'));
        month := date_trunc('month', month + interval '32 days', 'UTC');
    END LOOP;
END $$;
SELECT create_attempts_partitions();

CREATE TABLE webhook_endpoints (
    endpoint_id uuid PRIMARY KEY,
    url text NOT NULL,
    secret text NOT NULL,
    events text[] NOT NULL DEFAULT '{job.succeeded,job.failed,job.cancelled}',
    enabled boolean NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE webhook_deliveries (
    delivery_id uuid PRIMARY KEY,
    endpoint_id uuid NOT NULL REFERENCES webhook_endpoints ON DELETE CASCADE,
    job_id uuid NOT NULL,
    event text NOT NULL,
    payload jsonb NOT NULL,
    state text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'delivered', 'failed')),
    tries integer NOT NULL DEFAULT 0,
    next_try_at timestamptz NOT NULL DEFAULT now(),
    give_up_at timestamptz NOT NULL DEFAULT now() + interval '24 hours',
    status_code integer,
    error text,
    created_at timestamptz NOT NULL DEFAULT now(),
    delivered_at timestamptz
);
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (next_try_at) WHERE state = 'pending';

-- The outbox of users' queues: what tasks and jobs have to tell, recorded with their change and sent in its order.
CREATE TABLE queue_messages (
    message_id bigint GENERATED ALWAYS AS IDENTITY,
    queue_url text NOT NULL,
    job_id uuid NOT NULL,
    body jsonb NOT NULL,
    txid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (queue_url, txid, message_id)
);
CREATE INDEX queue_messages_old ON queue_messages (created_at); -- else a long backlog is read to find what has expired

CREATE TABLE api_keys (
    key_id uuid PRIMARY KEY,
    name text NOT NULL,
    role text NOT NULL CHECK (role IN ('viewer', 'submitter', 'operator')),
    key_hash text NOT NULL UNIQUE,      -- SHA-256, hex
    created_at timestamptz NOT NULL DEFAULT now(),
    revoked_at timestamptz
);

CREATE TABLE idempotency_keys (
    key_id uuid NOT NULL,
    idempotency_key text NOT NULL,
    request_hash text NOT NULL,
    status_code integer,                -- null: the first request is still running
    response jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (key_id, idempotency_key)
);

CREATE TABLE uploads (
    upload_id uuid PRIMARY KEY,
    uri text NOT NULL,
    bytes bigint NOT NULL,
    multipart_id text,
    completed_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- Roll-ups of the stats service: totals by outcome; minutes by stage and by worker apart, so that many small jobs on
-- many workers make the sum of their rows, not the product.
CREATE TABLE stats_watermark (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    txid xid8 NOT NULL,                 -- attempts of transactions before it are rolled up
    rolled_up_at timestamptz NOT NULL DEFAULT now(), -- attempts committed before this moment are among them
    mark_txid xid8 NOT NULL DEFAULT '0', -- as soon as txid reaches mark_txid, that holds for mark_at too
    mark_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO stats_watermark (txid) VALUES ('0');

CREATE TABLE stage_stats (
    job_id uuid NOT NULL,
    stage smallint NOT NULL,
    outcome text NOT NULL,              -- as in attempts
    attempts bigint NOT NULL,
    histogram bigint[] NOT NULL,        -- attempts by run time: services/stats/histogram.py says where buckets end
    run_seconds double precision NOT NULL,
    run_seconds_max double precision NOT NULL,
    cpu_seconds double precision NOT NULL,
    memory_bytes_peak bigint NOT NULL,
    bytes_in bigint NOT NULL,
    bytes_out bigint NOT NULL,
    records_in bigint NOT NULL,
    records_out bigint NOT NULL,
    records_rejected bigint NOT NULL,
    PRIMARY KEY (job_id, stage, outcome)
) WITH (fillfactor = 50);

CREATE TABLE pool_stats (
    pool text NOT NULL,
    outcome text NOT NULL,
    attempts bigint NOT NULL,
    histogram bigint[] NOT NULL,
    run_seconds double precision NOT NULL,
    run_seconds_max double precision NOT NULL,
    cpu_seconds double precision NOT NULL,
    memory_bytes_peak bigint NOT NULL,
    bytes_in bigint NOT NULL,
    bytes_out bigint NOT NULL,
    records_in bigint NOT NULL,
    records_out bigint NOT NULL,
    records_rejected bigint NOT NULL,
    PRIMARY KEY (pool, outcome)
) WITH (fillfactor = 50);

CREATE TABLE stage_minutes (
    job_id uuid NOT NULL,
    stage smallint NOT NULL,
    minute timestamptz NOT NULL,
    succeeded bigint NOT NULL,          -- attempts that ended in this minute
    failed bigint NOT NULL,
    busy_seconds double precision NOT NULL, -- of this minute, also of attempts that ended in a later one
    bytes_in bigint NOT NULL,
    bytes_out bigint NOT NULL,
    PRIMARY KEY (job_id, stage, minute)
) WITH (fillfactor = 70);
CREATE INDEX stage_minutes_old ON stage_minutes (minute);

CREATE TABLE worker_minutes (
    minute timestamptz NOT NULL,
    pool text NOT NULL,
    worker_id uuid NOT NULL,
    succeeded bigint NOT NULL,
    failed bigint NOT NULL,
    busy_seconds double precision NOT NULL,
    bytes_in bigint NOT NULL,
    bytes_out bigint NOT NULL,
    PRIMARY KEY (minute, pool, worker_id)
) WITH (fillfactor = 70);

CREATE INDEX workers_stopped ON workers (stopped_at) WHERE stopped_at IS NOT NULL;

-- The histogram of bucket numbers that start at 1; it ends at the last bucket that is not empty.
CREATE FUNCTION histogram_of(buckets integer[]) RETURNS bigint[] LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN (
    SELECT coalesce(array_agg(coalesce(n, 0) ORDER BY bucket), '{}')
    FROM generate_series(1, (SELECT max(b) FROM unnest(buckets) AS b)) AS bucket
    LEFT JOIN (SELECT b AS bucket, count(*) AS n FROM unnest(buckets) AS b GROUP BY b) AS counted USING (bucket)
);

-- The sum of two histograms, also of different lengths.
CREATE FUNCTION histogram_add(a bigint[], b bigint[]) RETURNS bigint[] LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN (
    SELECT coalesce(array_agg(coalesce(x, 0) + coalesce(y, 0) ORDER BY bucket), '{}')
    FROM unnest(a, b) WITH ORDINALITY AS pairs (x, y, bucket)
);

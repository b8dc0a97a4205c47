-- Rules: which condition of which jobs is told to whom.
CREATE TABLE alerts (
    alert_id uuid PRIMARY KEY,
    name text NOT NULL UNIQUE,
    conditions jsonb NOT NULL,          -- {"failed": true, "late": 3600, ...}: what is told, with its limit
    job_id uuid,                        -- of these jobs alone; null: any
    job_name text,
    labels jsonb NOT NULL DEFAULT '{}',
    schedule text,                      -- its name
    pool text,
    channel text NOT NULL CHECK (channel IN ('webhook', 'slack', 'teams', 'email', 'sns')),
    address text NOT NULL,              -- what may be shown of it
    sealed text,                        -- the address, if that is a secret
    generation integer NOT NULL DEFAULT 1, -- of the secret that signs, which is derived as a webhook endpoint's
    secret_digest text,
    repeat_seconds double precision,    -- null: what lasts is told once
    quiet jsonb,                        -- {"begin": "22:00", "end": "07:00", "time_zone": "Europe/Berlin"}
    urgent boolean NOT NULL DEFAULT false, -- told in quiet hours, too
    paused boolean NOT NULL DEFAULT false,
    looks_at timestamptz NOT NULL DEFAULT now(), -- when what depends on time is looked at next
    looked_until jsonb NOT NULL DEFAULT '{}',    -- by condition: jobs that were due or began by then have been looked at
    created_at timestamptz NOT NULL DEFAULT now(),
    created_by text
);
CREATE INDEX alerts_look ON alerts (looks_at) WHERE NOT paused;

-- What a rule has found. One condition of one subject is open once, however often it is found.
CREATE TABLE incidents (
    incident_id uuid PRIMARY KEY,
    alert_id uuid NOT NULL REFERENCES alerts ON DELETE CASCADE,
    condition text NOT NULL,
    subject_kind text NOT NULL CHECK (subject_kind IN ('job', 'schedule', 'trigger', 'pool')),
    subject text NOT NULL,              -- its id, or a pool's name
    name text NOT NULL,
    job_id uuid,                        -- the last job that it was found of
    message text NOT NULL,
    times bigint NOT NULL DEFAULT 1,
    found_at timestamptz NOT NULL DEFAULT now(),
    last_at timestamptz NOT NULL DEFAULT now(),
    told_at timestamptz,
    tell_at timestamptz DEFAULT now(),  -- null: there is nothing to tell
    held boolean NOT NULL DEFAULT false, -- by quiet hours, or since much was told: told in a summary
    over_at timestamptz
);
CREATE UNIQUE INDEX incidents_open ON incidents (alert_id, condition, subject) WHERE over_at IS NULL;
CREATE INDEX incidents_of_job ON incidents (job_id) WHERE over_at IS NULL;
CREATE INDEX incidents_tell ON incidents (tell_at) WHERE tell_at IS NOT NULL;
CREATE INDEX incidents_of_alert ON incidents (alert_id, found_at, incident_id);
CREATE INDEX incidents_last ON incidents (last_at);

-- The outbox: one message of one rule, recorded in the transaction that found what it tells.
CREATE TABLE alert_messages (
    message_id uuid PRIMARY KEY,
    alert_id uuid NOT NULL REFERENCES alerts ON DELETE CASCADE,
    event text NOT NULL CHECK (event IN ('alert.raised', 'alert.over', 'alert.summary', 'alert.test')),
    payload jsonb NOT NULL,
    state text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'delivered', 'failed')),
    tries integer NOT NULL DEFAULT 0,
    next_try_at timestamptz NOT NULL DEFAULT now(),
    give_up_at timestamptz NOT NULL,
    error text,
    created_at timestamptz NOT NULL DEFAULT now(),
    delivered_at timestamptz
);
CREATE INDEX alert_messages_due ON alert_messages (next_try_at) WHERE state = 'pending';
CREATE INDEX alert_messages_of_alert ON alert_messages (alert_id, created_at, message_id);
CREATE INDEX alert_messages_created ON alert_messages (created_at);

-- Jobs that have ended and that no rule has looked at yet.
CREATE TABLE ended_jobs (
    job_id uuid PRIMARY KEY,
    ended_at timestamptz NOT NULL DEFAULT now()
);

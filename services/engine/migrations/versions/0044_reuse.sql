-- The content key of each task of jobs that say `reuse`: the same input, code and params have the same key.
CREATE TABLE task_keys (
    key bytea NOT NULL,
    job_id uuid NOT NULL REFERENCES jobs ON DELETE CASCADE,
    stage smallint NOT NULL,
    index integer NOT NULL,
    PRIMARY KEY (key, job_id, stage, index)
);
CREATE INDEX task_keys_job ON task_keys (job_id);

-- {"job_id", "stage", "index", "attempt"}: the attempt whose output this one has taken over. It has run nothing.
ALTER TABLE attempts ADD COLUMN reused_from jsonb;

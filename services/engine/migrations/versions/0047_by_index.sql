-- By index: the predecessor's stage whose tasks are waited for, how many of them had ended at the last look, and whether
-- every task of the job has been made. Null: the job waits for the predecessor as a whole.
ALTER TABLE job_dependencies ADD COLUMN stage smallint, ADD COLUMN tasks_seen bigint NOT NULL DEFAULT 0,
    ADD COLUMN followed boolean NOT NULL DEFAULT false;

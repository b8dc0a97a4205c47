-- What a job waits for: a job that has ended, well or in any way. Until all have, the job is scheduled without a time.
CREATE TABLE job_dependencies (
    job_id uuid NOT NULL REFERENCES jobs ON DELETE CASCADE,
    predecessor_id uuid NOT NULL,       -- it may be deleted once it has ended
    condition text NOT NULL CHECK (condition IN ('succeeded', 'any')),
    ended text,                         -- the state in which the predecessor ended; null: it has not
    seen boolean NOT NULL DEFAULT false, -- that end, by a scheduler (services/engine/dependencies.py)
    PRIMARY KEY (job_id, predecessor_id)
);
CREATE INDEX job_dependencies_waiting ON job_dependencies (predecessor_id) WHERE ended IS NULL;
CREATE INDEX job_dependencies_news ON job_dependencies (job_id) WHERE ended IS NOT NULL AND NOT seen;

-- In the transaction of the end, whichever release ends the job.
CREATE FUNCTION note_end() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    UPDATE job_dependencies SET ended = NEW.state WHERE predecessor_id = NEW.job_id AND ended IS NULL;
    IF FOUND THEN
        PERFORM pg_notify('piecework_jobs', '');
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER jobs_note_end AFTER UPDATE OF state ON jobs
    FOR EACH ROW WHEN (NEW.state IN ('succeeded', 'failed', 'cancelled') AND OLD.state <> NEW.state)
    EXECUTE FUNCTION note_end();

-- The last retry of a job: from then on it runs, also if it started a week before.
ALTER TABLE jobs ADD COLUMN retried_at timestamptz;

-- Stages whose items are appended while the job runs: how long the job stays open without any, and when the last came.
-- Null: all others. What was appended is in plan_cursor: {"chunks": 3}.
ALTER TABLE stages ADD COLUMN open_seconds double precision, ADD COLUMN appended_at timestamptz;

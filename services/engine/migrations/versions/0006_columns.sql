-- The types of the columns are not found yet: no task of the stage is sent. They go to `options` (found_columns).
ALTER TABLE stages ADD COLUMN columns_due boolean NOT NULL DEFAULT false;

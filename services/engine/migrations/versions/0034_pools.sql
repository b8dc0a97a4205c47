-- The pools of a stage in order of preference, `pool` first; null: that one alone. A task that has not begun in a pool by
-- then is for the next one, too.
ALTER TABLE stages ADD COLUMN pools text[], ADD COLUMN next_pool_after_seconds double precision;

-- The worker that keeps room for a bundle that found none for a while, and until when unless it says so again.
ALTER TABLE bundles ADD COLUMN reserved_by uuid, ADD COLUMN reserved_until timestamptz;

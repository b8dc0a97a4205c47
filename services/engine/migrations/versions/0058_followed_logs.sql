-- Tasks of a claimed bundle whose logs somebody reads while they run, by their index, and until when: heartbeats tell
-- its worker, which puts them into S3 meanwhile.
ALTER TABLE bundles ADD COLUMN followed integer[], ADD COLUMN followed_until timestamptz;

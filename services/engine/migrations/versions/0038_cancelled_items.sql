-- Tasks of a claimed bundle that were cancelled one by one, by their index: heartbeats tell its worker.
ALTER TABLE bundles ADD COLUMN cancelled integer[];

-- What runs a worker's tasks in containers, with its version; null: it has no engine, or is of an earlier release.
ALTER TABLE workers ADD COLUMN engine text;

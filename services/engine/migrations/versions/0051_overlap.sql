-- What becomes of a run that is due while a job of the schedule runs: allow, skip, queue, cancel.
ALTER TABLE schedules ADD COLUMN overlap text NOT NULL DEFAULT 'allow';

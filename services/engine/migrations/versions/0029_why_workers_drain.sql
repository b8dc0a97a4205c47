-- Workers that drain: why, and whether EC2 ends their instance whatever they do.
ALTER TABLE workers
    ADD COLUMN drain_reason text,
    ADD COLUMN interrupted_at timestamptz, -- since when that is known: what it loses from then on counts against no task
    ADD COLUMN replace_instance boolean NOT NULL DEFAULT false; -- the group launches another one, and stays as large

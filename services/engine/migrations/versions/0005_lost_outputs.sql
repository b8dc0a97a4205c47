-- Outputs that were gone, or held other bytes, when they were read: the tasks that made them run again. A row for each
-- reader of each of them.
CREATE TABLE lost_outputs (
    job_id uuid NOT NULL REFERENCES jobs ON DELETE CASCADE,
    stage smallint NOT NULL,
    index integer NOT NULL,             -- -1: what schedulers made of the stage's outputs, for the `attempt`th time
    attempt smallint NOT NULL,          -- the success whose output it is
    reader_stage smallint NOT NULL,
    reader_index integer NOT NULL,      -- -1: the stage's plan or merge
    uri text NOT NULL,
    waits boolean NOT NULL,             -- the reader is ready only when it has been made again
    counted boolean NOT NULL DEFAULT true, -- false: lost before the user's last retry
    lost_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (job_id, stage, index, attempt, reader_stage, reader_index)
);
CREATE INDEX lost_outputs_waiting ON lost_outputs (job_id, reader_stage, reader_index) WHERE waits;

-- The release that a worker runs; null: 0.2 or before, which can't complete a task whose successor is there already.
ALTER TABLE workers ADD COLUMN release text;

-- The size and the checksum of an output go with it. Workers of the release before ignore them.
CREATE OR REPLACE FUNCTION output_as_input(output jsonb) RETURNS jsonb LANGUAGE sql STABLE PARALLEL SAFE RETURN CASE
    WHEN output ? 'uri' THEN jsonb_strip_nulls(jsonb_build_object('type', 'object', 'uri', output -> 'uri',
        'bytes', output -> 'bytes', 'crc32', output -> 'crc32'))
    ELSE jsonb_build_object('type', 'item', 'value', output -> 'value')
END;

-- What EC2 says of the worker's instance. Null: it does not run on EC2, or an earlier release registered it.
ALTER TABLE workers
    ADD COLUMN instance_type text, -- m7g.large
    ADD COLUMN zone text,          -- its Availability Zone, such as eu-central-1a
    ADD COLUMN market text;        -- how it is paid for, its life cycle: on-demand, spot, scheduled, capacity-block

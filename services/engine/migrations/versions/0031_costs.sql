-- What a node costs an hour, in US dollars: On-Demand and as Spot. Null: nobody has said it.
ALTER TABLE pools
    ADD COLUMN price_per_hour double precision,
    ADD COLUMN spot_price_per_hour double precision;

-- What of run_seconds has a price, and what it costs, in US dollars, by the price of then. A release before adds to
-- run_seconds alone.
ALTER TABLE stage_stats
    ADD COLUMN priced_seconds double precision NOT NULL DEFAULT 0,
    ADD COLUMN cost double precision NOT NULL DEFAULT 0;

-- The same of all jobs, by the day (UTC) on which attempts ended, by pool and by the labels of their jobs.
CREATE TABLE cost_days (
    day date NOT NULL,
    pool text NOT NULL,
    labels_md5 text NOT NULL,
    labels jsonb NOT NULL,
    attempts bigint NOT NULL,
    run_seconds double precision NOT NULL, -- as workers measured it
    priced_seconds double precision NOT NULL,
    cost double precision NOT NULL,
    PRIMARY KEY (day, pool, labels_md5)
) WITH (fillfactor = 70);

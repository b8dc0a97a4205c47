-- When a scheduler has last looked for silent workers, and for how long nobody could before: the database was away, or
-- all schedulers were. Such time counts for no lease.
CREATE TABLE database_watch (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    seen_at timestamptz,                -- null: nobody has looked yet
    unseen tstzmultirange NOT NULL DEFAULT '{}'
) WITH (fillfactor = 50);
INSERT INTO database_watch DEFAULT VALUES;

-- The seconds from `since` until the last look in which a scheduler has seen the database.
CREATE FUNCTION seen_seconds(since timestamptz) RETURNS double precision LANGUAGE sql STABLE RETURN (
    SELECT greatest(0, extract(epoch FROM coalesce(w.seen_at, now()) - since) - coalesce((
        SELECT sum(extract(epoch FROM upper(gap) - lower(gap)))
        FROM unnest(w.unseen * tstzmultirange(tstzrange(since, greatest(since, coalesce(w.seen_at, now()))))) AS gap
    ), 0))::double precision
    FROM database_watch AS w
);

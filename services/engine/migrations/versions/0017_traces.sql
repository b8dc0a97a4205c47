-- The span of the request that submitted the job (https://www.w3.org/TR/trace-context); null: it was not traced.
ALTER TABLE jobs ADD COLUMN traceparent text;

-- What holds back vacuum, the roll-up and users' queues, wherever in the server it is. Only its owner sees the sessions
-- of others, so it runs with its owner's rights; it takes no argument and tells ages only.
CREATE FUNCTION database_ages(
    OUT transaction_seconds double precision,      -- of the oldest transaction that is open
    OUT idle_transaction_seconds double precision, -- of the oldest one whose client does nothing
    OUT xmin_age bigint,                           -- transactions since the oldest snapshot, slot or prepared one
    OUT xid_age bigint                             -- since the oldest row that is not frozen
) LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0)::double precision,
        coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)) FILTER (WHERE state LIKE 'idle in%'), 0)
            ::double precision,
        (SELECT coalesce(max(age(xmin)), 0) FROM (
            SELECT backend_xmin AS xmin FROM pg_stat_activity WHERE pid <> pg_backend_pid()
            UNION ALL SELECT backend_xid FROM pg_stat_activity WHERE pid <> pg_backend_pid()
            UNION ALL SELECT s.xmin FROM pg_replication_slots AS s
            UNION ALL SELECT s.catalog_xmin FROM pg_replication_slots AS s
            UNION ALL SELECT transaction FROM pg_prepared_xacts
        ) AS holders)::bigint,
        (SELECT max(age(datfrozenxid)) FROM pg_database)::bigint
    FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'
$$;
REVOKE EXECUTE ON FUNCTION database_ages() FROM PUBLIC;

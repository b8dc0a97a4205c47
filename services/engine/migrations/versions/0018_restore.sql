-- The oldest transaction that may still commit rows of this database: what older ones have written is complete. The
-- snapshot's xmin counts those of the server's other databases, too. A transaction that a session of another database
-- is seen to run is none of ours, whatever happens between the snapshot and this look; one that is not seen may be ours.
-- STABLE: the snapshot is that of the statement which calls it.
CREATE FUNCTION oldest_transaction() RETURNS xid8 LANGUAGE sql STABLE AS $$
    SELECT coalesce((
        SELECT running FROM pg_snapshot_xip(pg_current_snapshot()) AS running
        WHERE NOT EXISTS (
            SELECT FROM pg_stat_activity AS a JOIN pg_database AS d ON d.oid = a.datid
            WHERE a.backend_xid = running::xid AND d.datname <> current_database())
          AND NOT EXISTS (
            SELECT FROM pg_prepared_xacts AS p WHERE p.transaction = running::xid AND p.database <> current_database())
        ORDER BY running LIMIT 1
    ), pg_snapshot_xmax(pg_current_snapshot()))
$$;

-- Of a restored database: the tasks of old jobs that are yet to be made.
CREATE FUNCTION continue_attempts() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.attempt := TG_ARGV[0]::smallint;
    RETURN NEW;
END $$;

-- What a database needs that was restored from a dump, perhaps on another server, before its services start. Bundles
-- are given back before (services/engine/restore.py).
CREATE FUNCTION restore_grid() RETURNS void LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
    now_at xid8 := pg_current_xact_id();
    counted_to xid8 := (SELECT txid FROM stats_watermark);
    newest_job uuid := (SELECT job_id FROM jobs ORDER BY job_id DESC LIMIT 1);
    -- Once more for each time that the database was restored.
    attempts_before integer := 100 + coalesce((
        SELECT split_part(encode(tgargs, 'escape'), '\000', 1)::integer FROM pg_trigger
        WHERE tgrelid = 'tasks'::regclass AND tgname = 'tasks_continue'), 0);
BEGIN
    -- Ids of another server's transactions say nothing about this one's. Each attempt is counted once: those that were
    -- get an id below the watermark, the others one above.
    UPDATE attempts SET txid = '0' WHERE txid < counted_to AND txid >= now_at;
    UPDATE attempts SET txid = now_at WHERE txid >= counted_to;
    UPDATE stats_watermark SET txid = now_at, mark_txid = '0';
    UPDATE queue_messages SET txid = '0'; -- in the order in which they were recorded
    -- FIFO queues may remember the messages that were told after the dump was taken.
    PERFORM setval(pg_get_serial_sequence('queue_messages', 'message_id'),
        nextval(pg_get_serial_sequence('queue_messages', 'message_id')) + 1000000000);
    UPDATE workers SET state = 'stopped', stopped_at = now() WHERE state IN ('active', 'draining');
    -- Attempts of the next numbers may have left objects in S3 since the dump was taken, also of tasks not made by then.
    UPDATE tasks AS t SET attempt = greatest(attempt, backup_attempt) + 100 FROM jobs AS j
    WHERE j.job_id = t.job_id AND j.state <> 'succeeded' AND t.state <> 'succeeded';
    EXECUTE format('CREATE OR REPLACE TRIGGER tasks_continue BEFORE INSERT ON tasks FOR EACH ROW '
        'WHEN (NEW.job_id <= %L) EXECUTE FUNCTION continue_attempts(%s)', newest_job, attempts_before);
END $$;
REVOKE EXECUTE ON FUNCTION restore_grid() FROM PUBLIC;

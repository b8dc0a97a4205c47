-- As before, but without a call of kept_until() for each part: a function that reads a table is not inlined, and its
-- call costs a tenth of a millisecond.
CREATE OR REPLACE VIEW kept_jobs AS
    SELECT j.job_id,
        CASE WHEN j.interim_deleted_at >= j.finished_at OR k.interim = 'infinity' THEN 'infinity'
            ELSE j.finished_at + k.interim * interval '1 second' END AS interim_until,
        CASE WHEN j.results_deleted_at >= j.finished_at OR k.results = 'infinity' THEN 'infinity'
            ELSE j.finished_at + k.results * interval '1 second' END AS results_until,
        CASE WHEN k.records = 'infinity' THEN 'infinity'
            ELSE j.finished_at + k.records * interval '1 second' END AS records_until,
        CASE WHEN j.spec ->> 'output_queue' IS NOT NULL THEN -1
            WHEN coalesce(j.spec -> 'merge' ->> 'type', 'none') = 'none'
            THEN (SELECT max(s.stage) FROM stages AS s WHERE s.job_id = j.job_id) END AS results_stage
    FROM jobs AS j CROSS JOIN LATERAL (
        SELECT
            coalesce(seconds_kept(j.spec -> 'keep', 'interim'),
                max(seconds_kept(r.keep, 'interim')) FILTER (WHERE r.name <> 'default'),
                max(seconds_kept(r.keep, 'interim')) FILTER (WHERE r.name = 'default'),
                'infinity') AS interim,
            coalesce(seconds_kept(j.spec -> 'keep', 'results'),
                max(seconds_kept(r.keep, 'results')) FILTER (WHERE r.name <> 'default'),
                max(seconds_kept(r.keep, 'results')) FILTER (WHERE r.name = 'default'),
                'infinity') AS results,
            coalesce(seconds_kept(j.spec -> 'keep', 'records'),
                max(seconds_kept(r.keep, 'records')) FILTER (WHERE r.name <> 'default'),
                max(seconds_kept(r.keep, 'records')) FILTER (WHERE r.name = 'default'),
                'infinity') AS records
        FROM retention_rules AS r WHERE r.name = 'default' OR j.labels @> r.labels
    ) AS k
    WHERE j.finished_at IS NOT NULL AND j.state IN ('succeeded', 'failed', 'cancelled');

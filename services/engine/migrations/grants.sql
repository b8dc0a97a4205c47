-- What each service's role may do, and nothing else: a line for each table and role. A new table gets its lines here.
-- They are applied after the migrations, each time; services/engine/roles.py says how. Rows that are only locked need
-- the right to update one column of theirs.

REVOKE ALL ON ALL TABLES IN SCHEMA public FROM piecework_api, piecework_scheduler, piecework_worker, piecework_stats;
GRANT USAGE ON SCHEMA public TO piecework_api, piecework_scheduler, piecework_worker, piecework_stats;
GRANT SELECT ON alembic_version, schema_compatibility
    TO piecework_api, piecework_scheduler, piecework_worker, piecework_stats;

-- The API: what users make, control and read.
GRANT SELECT, INSERT, UPDATE ON alert_messages TO piecework_api;
GRANT SELECT, INSERT, UPDATE, DELETE ON alerts TO piecework_api;
GRANT SELECT, INSERT, UPDATE ON api_keys TO piecework_api;
GRANT SELECT, INSERT, UPDATE ON attempts TO piecework_api;
GRANT SELECT, INSERT ON audit_log TO piecework_api;
GRANT SELECT, UPDATE, DELETE ON bundles TO piecework_api;
GRANT SELECT, UPDATE ON deleted_jobs TO piecework_api;
GRANT SELECT, INSERT, UPDATE ON idempotency_keys TO piecework_api;
GRANT SELECT, UPDATE ON incidents TO piecework_api;
GRANT SELECT ON instances TO piecework_api;
GRANT SELECT, INSERT, UPDATE ON job_dependencies TO piecework_api;
GRANT SELECT, INSERT, UPDATE ON jobs TO piecework_api;
GRANT SELECT, UPDATE ON lost_outputs TO piecework_api;
GRANT SELECT, INSERT, UPDATE ON packages TO piecework_api;
GRANT SELECT, INSERT, UPDATE, DELETE ON pools TO piecework_api;
GRANT SELECT, INSERT, UPDATE ON processors TO piecework_api;
GRANT SELECT, INSERT, UPDATE, DELETE ON retention_rules TO piecework_api;
GRANT SELECT, INSERT, UPDATE ON schedule_backfills, schedule_runs TO piecework_api;
GRANT SELECT, INSERT, UPDATE, DELETE ON schedules TO piecework_api;
GRANT SELECT, INSERT, UPDATE ON shares TO piecework_api;
GRANT SELECT, INSERT, UPDATE ON stage_counters TO piecework_api;
GRANT SELECT, INSERT, UPDATE ON stages TO piecework_api;
GRANT SELECT, INSERT, UPDATE, DELETE ON tasks TO piecework_api;
GRANT SELECT, DELETE ON task_keys TO piecework_api;
GRANT SELECT, INSERT, UPDATE, DELETE ON triggers TO piecework_api;
GRANT SELECT, INSERT, UPDATE ON uploads TO piecework_api;
GRANT SELECT, UPDATE ON webhook_deliveries TO piecework_api;
GRANT SELECT, INSERT, UPDATE, DELETE ON webhook_endpoints TO piecework_api;
GRANT SELECT, UPDATE ON workers TO piecework_api;
GRANT SELECT ON running_stages TO piecework_api;
GRANT SELECT ON scheduler_loops TO piecework_api;

-- The scheduler: jobs and tasks on their way, what is due, and what has expired. It makes partitions by a function.
GRANT SELECT, INSERT, UPDATE, DELETE ON alert_messages TO piecework_scheduler;
GRANT SELECT, UPDATE (looks_at, looked_until) ON alerts TO piecework_scheduler;
GRANT SELECT (key_id, name, quotas, role, "all", shares, labels) ON api_keys TO piecework_scheduler;
GRANT SELECT, INSERT, UPDATE, DELETE ON attempts TO piecework_scheduler;
GRANT SELECT, INSERT, DELETE ON audit_log TO piecework_scheduler;
GRANT SELECT, INSERT, UPDATE, DELETE ON bundles TO piecework_scheduler;
GRANT SELECT, UPDATE ON clock TO piecework_scheduler;
GRANT SELECT, UPDATE ON database_watch TO piecework_scheduler;
GRANT SELECT, INSERT, UPDATE, DELETE ON ended_jobs TO piecework_scheduler;
GRANT SELECT, DELETE ON idempotency_keys TO piecework_scheduler;
GRANT SELECT, INSERT, UPDATE, DELETE ON incidents TO piecework_scheduler;
GRANT SELECT, INSERT, UPDATE, DELETE ON instances TO piecework_scheduler;
GRANT SELECT, INSERT, UPDATE ON job_dependencies TO piecework_scheduler;
GRANT SELECT, INSERT, UPDATE ON jobs TO piecework_scheduler;
GRANT SELECT, INSERT, UPDATE ON lost_outputs TO piecework_scheduler;
GRANT SELECT, UPDATE ON pools TO piecework_scheduler;
GRANT SELECT ON processors TO piecework_scheduler;
GRANT SELECT, INSERT, DELETE ON queue_messages TO piecework_scheduler;
GRANT SELECT, INSERT, UPDATE, DELETE ON schedulers TO piecework_scheduler;
GRANT SELECT, INSERT, UPDATE, DELETE ON deleted_jobs TO piecework_scheduler;
GRANT SELECT, INSERT, UPDATE, DELETE ON jobs TO piecework_scheduler;
GRANT SELECT, INSERT, UPDATE, DELETE ON left_rows TO piecework_scheduler;
GRANT SELECT, INSERT, UPDATE, DELETE ON lost_outputs TO piecework_scheduler;
GRANT SELECT, UPDATE, DELETE ON packages TO piecework_scheduler;
GRANT SELECT ON retention_rules TO piecework_scheduler;
GRANT SELECT, UPDATE ON schedule_backfills TO piecework_scheduler;
GRANT SELECT, INSERT, UPDATE, DELETE ON schedule_runs TO piecework_scheduler;
GRANT SELECT, UPDATE ON schedules TO piecework_scheduler;
GRANT SELECT ON shares TO piecework_scheduler;
GRANT SELECT, INSERT, UPDATE, DELETE ON stage_counters TO piecework_scheduler;
GRANT SELECT, DELETE ON stage_minutes TO piecework_scheduler;
GRANT SELECT, DELETE ON stage_stats TO piecework_scheduler;
GRANT SELECT, INSERT, UPDATE ON stages TO piecework_scheduler;
GRANT SELECT ON stats_watermark TO piecework_scheduler;
GRANT SELECT, INSERT, UPDATE, DELETE ON tasks TO piecework_scheduler;
GRANT SELECT, INSERT, DELETE ON task_keys TO piecework_scheduler;
GRANT SELECT, UPDATE ON triggers TO piecework_scheduler;
GRANT SELECT, UPDATE, DELETE ON uploads TO piecework_scheduler;
GRANT SELECT, INSERT, UPDATE, DELETE ON webhook_deliveries TO piecework_scheduler;
GRANT SELECT, UPDATE (
    secret, enabled, failures, failing_since, pauses, paused_until, last_error, disabled_at, disabled_reason
) ON webhook_endpoints TO piecework_scheduler;
GRANT SELECT, UPDATE, DELETE ON workers TO piecework_scheduler;
GRANT SELECT ON running_stages, stages_to_chain TO piecework_scheduler;
GRANT SELECT, INSERT, UPDATE ON scheduler_loops TO piecework_scheduler;
GRANT SELECT ON running_stages, stages_to_chain, kept_jobs TO piecework_scheduler;
GRANT EXECUTE ON FUNCTION create_attempts_partitions() TO piecework_scheduler;
GRANT SELECT ON job_partitions TO piecework_scheduler;
GRANT EXECUTE ON FUNCTION create_attempts_partitions(), make_partitions(), drop_partitions() TO piecework_scheduler;

-- A worker: the tasks that it runs, and what they leave. No keys, no webhooks, no schedules.
GRANT SELECT, INSERT, UPDATE ON attempts TO piecework_worker;
GRANT SELECT, UPDATE, DELETE ON bundles TO piecework_worker;
GRANT SELECT, UPDATE (started_at) ON jobs TO piecework_worker;
GRANT SELECT, INSERT, UPDATE ON lost_outputs TO piecework_worker;
GRANT SELECT ON pools TO piecework_worker;
GRANT SELECT ON processors TO piecework_worker;
GRANT INSERT ON queue_messages TO piecework_worker;
GRANT SELECT, INSERT, UPDATE ON stage_counters TO piecework_worker;
GRANT SELECT, UPDATE ON stages TO piecework_worker;
GRANT SELECT, INSERT, UPDATE ON tasks TO piecework_worker;
GRANT SELECT, INSERT, UPDATE ON workers TO piecework_worker;

-- The stats service: reads jobs and workers, and writes its roll-ups.
GRANT SELECT, UPDATE (last_used_at) ON api_keys TO piecework_stats;
GRANT SELECT (alert_id, state, created_at, next_try_at) ON alert_messages TO piecework_stats;
GRANT SELECT (alert_id, name) ON alerts TO piecework_stats;
GRANT SELECT ON attempts TO piecework_stats;
GRANT SELECT ON bundles TO piecework_stats;
GRANT SELECT (alert_id, over_at) ON incidents TO piecework_stats;
GRANT SELECT ON instances TO piecework_stats;
GRANT SELECT ON deleted_jobs TO piecework_stats;
GRANT SELECT ON job_dependencies TO piecework_stats;
GRANT SELECT ON jobs TO piecework_stats;
GRANT SELECT ON lost_outputs TO piecework_stats;
GRANT SELECT ON pools TO piecework_stats;
GRANT SELECT, INSERT, UPDATE ON pool_stats TO piecework_stats;
GRANT SELECT ON scheduler_loops TO piecework_stats;
GRANT SELECT (queue_url, txid, message_id, created_at) ON queue_messages TO piecework_stats;
GRANT SELECT ON schedules TO piecework_stats;
GRANT SELECT ON stage_counters TO piecework_stats;
GRANT SELECT, INSERT, UPDATE, DELETE ON stage_minutes TO piecework_stats;
GRANT SELECT, INSERT, UPDATE ON stage_stats TO piecework_stats;
GRANT SELECT, INSERT, UPDATE, DELETE ON cost_days TO piecework_stats;
GRANT SELECT ON stages TO piecework_stats;
GRANT SELECT, UPDATE ON stats_watermark TO piecework_stats;
GRANT SELECT ON tasks TO piecework_stats;
GRANT SELECT ON triggers TO piecework_stats;
GRANT SELECT (endpoint_id, state, created_at, next_try_at, give_up_at) ON webhook_deliveries TO piecework_stats;
GRANT SELECT (endpoint_id, enabled) ON webhook_endpoints TO piecework_stats;
GRANT SELECT, INSERT, UPDATE, DELETE ON worker_minutes TO piecework_stats;
GRANT SELECT ON workers TO piecework_stats;
GRANT EXECUTE ON FUNCTION database_ages() TO piecework_stats;

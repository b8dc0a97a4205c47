"""The schemas of earlier revisions."""

import re
from pathlib import Path

import asyncpg

from services.engine import migrations


def made_in(migration: str, *what: str) -> str:
    """The statements of a migration that make these functions or views."""
    script = (Path(migrations.__file__).parent / "versions" / f"{migration}.sql").read_text()
    statements = [
        re.search(rf"CREATE {name}\b.*?(?:\nEND;|\nEND \$\$;|;\n(?:\n|\Z))", script, re.DOTALL) for name in what
    ]
    return "\n".join(found[0] for found in statements if found)


_SUMS_OF_0002 = made_in("0002_functions", "FUNCTION stage_sums").replace("CREATE", "CREATE OR REPLACE", 1)

# What undoes each migration, the newest first.
UNDONE = {
    "0062": "ALTER TABLE jobs DROP COLUMN retried_at",
    "0061": "ALTER TABLE schedules DROP COLUMN not_on, DROP COLUMN business_days, DROP COLUMN holidays",
    "0060": "DROP INDEX uploads_by_content",
    "0059": "ALTER TABLE uploads DROP COLUMN sha256",
    "0058": "ALTER TABLE bundles DROP COLUMN followed, DROP COLUMN followed_until",
    "0057": "DROP INDEX jobs_due, jobs_started",
    "0056": "DROP TABLE alert_messages, incidents, alerts, ended_jobs",
    "0055": "DROP INDEX schedule_runs_backfill",
    "0054": "DROP TABLE schedule_backfills; ALTER TABLE schedule_runs DROP COLUMN backfill_id",
    "0053": "DROP INDEX jobs_of_schedules_active",
    "0052": "DROP INDEX schedule_runs_waiting",
    "0051": "ALTER TABLE schedules DROP COLUMN overlap",
    "0050": "ALTER TABLE schedules DROP COLUMN template",
    "0049": "DROP TABLE schedule_runs; ALTER TABLE schedules DROP COLUMN paused_at",
    "0048": "DROP INDEX job_dependencies_by_index",
    "0047": "ALTER TABLE job_dependencies DROP COLUMN stage, DROP COLUMN tasks_seen, DROP COLUMN followed",
    "0046": "ALTER TABLE stages DROP COLUMN tolerated_percent",
    "0045": "DROP TRIGGER jobs_note_end ON jobs; DROP FUNCTION note_end; DROP TABLE job_dependencies",
    "0044": "DROP TABLE task_keys; ALTER TABLE attempts DROP COLUMN reused_from",
    "0043": "DROP VIEW stages_to_chain; DROP FUNCTION unpinned; "
    "ALTER TABLE stages DROP COLUMN revision, DROP COLUMN attempt_base, DROP COLUMN processors_before;"
    + made_in("0035_cheaper_looks", "OR REPLACE VIEW stages_to_chain")
    + made_in("0018_restore", "FUNCTION continue_attempts").replace("CREATE", "CREATE OR REPLACE", 1),
    "0042": "DROP INDEX attempts_slow",
    "0041": "DROP INDEX attempts_failed",
    "0040": "DROP FUNCTION error_fingerprint",
    "0039": "DROP FUNCTION successor_input, source_of",
    "0038": "ALTER TABLE bundles DROP COLUMN cancelled",
    "0037": "ALTER TABLE stages DROP COLUMN open_seconds, DROP COLUMN appended_at",
    "0036": "DROP INDEX stages_unplanned",
    "0035": made_in("0012_partitions", "OR REPLACE VIEW job_partitions", "OR REPLACE FUNCTION make_partitions")
    + made_in("0028_left_rows", "OR REPLACE FUNCTION drop_partitions")
    + made_in("0002_functions", "VIEW stages_to_chain").replace("CREATE", "CREATE OR REPLACE", 1),
    "0034": "ALTER TABLE stages DROP COLUMN pools, DROP COLUMN next_pool_after_seconds",
    "0033": "ALTER TABLE bundles DROP COLUMN reserved_by, DROP COLUMN reserved_until",
    "0032": made_in("0013_retention", "VIEW kept_jobs").replace("CREATE", "CREATE OR REPLACE", 1),
    "0031": "DROP TABLE cost_days; ALTER TABLE stage_stats DROP COLUMN priced_seconds, DROP COLUMN cost; "
    "ALTER TABLE pools DROP COLUMN price_per_hour, DROP COLUMN spot_price_per_hour",
    "0030": "ALTER TABLE pools DROP COLUMN largest_node",
    "0029": "ALTER TABLE workers DROP COLUMN drain_reason, DROP COLUMN interrupted_at, DROP COLUMN replace_instance",
    "0028": "DROP TABLE left_rows; DROP FUNCTION past_month;"
    + made_in("0012_partitions", "OR REPLACE FUNCTION drop_partitions"),
    "0027": "ALTER TABLE workers DROP COLUMN engine",
    "0026": "DROP TRIGGER bundles_needs ON bundles; DROP TRIGGER bundles_fit ON bundles; "
    "DROP FUNCTION find_needs, refuse_unfit, node_holds; ALTER TABLE bundles DROP COLUMN needs; "
    "ALTER TABLE stages DROP COLUMN needs; "
    "ALTER TABLE workers DROP COLUMN cpus, DROP COLUMN memory, DROP COLUMN gpus, DROP COLUMN disk",
    "0025": "ALTER TABLE workers DROP COLUMN instance_type, DROP COLUMN zone, DROP COLUMN market",
    "0024": "DROP INDEX workers_quarantined",
    "0023": "DROP INDEX jobs_keep_revision",
    "0022": "DROP INDEX webhook_deliveries_created, webhook_deliveries_endpoint, webhook_deliveries_job, "
    "webhook_deliveries_pending, webhook_deliveries_give_up",
    "0021": "DROP INDEX jobs_expire",
    "0020": "DROP INDEX jobs_by_name, jobs_by_state, jobs_by_owner, jobs_by_share, stages_running",
    "0019": "DROP FUNCTION seen_seconds; DROP TABLE database_watch",
    "0018": """
        DROP FUNCTION restore_grid;
        DROP FUNCTION continue_attempts;
        DROP FUNCTION oldest_transaction;""",
    "0017": "ALTER TABLE jobs DROP COLUMN traceparent; DROP FUNCTION database_ages",
    "0016": "DROP TABLE scheduler_loops; ALTER TABLE jobs DROP COLUMN paused_at; "
    "ALTER TABLE pools DROP COLUMN paused_at, DROP COLUMN queue_error, DROP COLUMN queue_error_at; "
    "ALTER TABLE stages DROP COLUMN put_off_since, DROP COLUMN put_off_error, DROP COLUMN tasks_at; "
    "ALTER TABLE bundles DROP COLUMN queued_at, DROP COLUMN put_off_error; "
    "ALTER TABLE attempts DROP COLUMN fetch_seconds, DROP COLUMN put_seconds; "
    "ALTER TABLE stage_stats DROP COLUMN fetch_seconds, DROP COLUMN put_seconds, DROP COLUMN last_finished_at, "
    "DROP COLUMN last_index",
    "0015": _SUMS_OF_0002
    + """
        DROP TABLE instances;
        ALTER TABLE workers DROP COLUMN quarantine;
        ALTER TABLE bundles DROP COLUMN avoid;
        ALTER TABLE stage_counters DROP COLUMN wasted_seconds;
        ALTER TABLE pools DROP COLUMN scaling_error, DROP COLUMN scaling_error_since, DROP COLUMN instances,
            DROP COLUMN instances_missing, DROP COLUMN instances_missing_since, DROP COLUMN replacements,
            DROP COLUMN replace_at""",
    "0014": """
        DROP TABLE clock, schedulers;
        ALTER TABLE triggers DROP COLUMN unreadable_since, DROP COLUMN lag_seconds;
        ALTER TABLE schedules DROP COLUMN runs_skipped, DROP COLUMN last_skipped_at;
        ALTER TABLE stages DROP COLUMN merge_id, DROP COLUMN merge_until;
        ALTER TABLE webhook_endpoints DROP COLUMN failures, DROP COLUMN failing_since, DROP COLUMN pauses,
            DROP COLUMN paused_until, DROP COLUMN last_error, DROP COLUMN disabled_at, DROP COLUMN disabled_reason""",
    "0013": """
        DROP VIEW kept_jobs;
        DROP FUNCTION kept_until; DROP FUNCTION seconds_kept;
        DROP TRIGGER jobs_trigger_once ON jobs; DROP FUNCTION refuse_repeated_message;
        DROP TABLE retention_rules, deleted_jobs, packages;
        ALTER TABLE processors DROP COLUMN deleted_at;
        ALTER TABLE uploads DROP COLUMN used_at, DROP COLUMN removed_at;
        ALTER TABLE jobs DROP COLUMN hold, DROP COLUMN keep_revision, DROP COLUMN expires_at,
            DROP COLUMN interim_deleted_at, DROP COLUMN results_deleted_at, DROP COLUMN deleted_at,
            DROP COLUMN deletion""",
    "0012": """
        CREATE FUNCTION undo(name text, partitioning text, options text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
            EXECUTE format('ALTER TABLE %1$I RENAME TO %1$s_by_month', name);
            EXECUTE format('CREATE TABLE %1$I (LIKE %1$s_by_month INCLUDING ALL EXCLUDING INDEXES) %2$s %3$s',
                name, partitioning, options);
            EXECUTE format('CREATE TABLE kept AS TABLE %1$s_by_month; DROP TABLE %1$s_by_month CASCADE', name);
        END $$;
        DROP FUNCTION stage_sums, is_full CASCADE;
        SELECT undo('tasks', '', 'WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02,
            autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0.05)');
        INSERT INTO tasks TABLE kept; DROP TABLE kept;
        SELECT undo('stage_counters', '', 'WITH (fillfactor = 50)');
        INSERT INTO stage_counters TABLE kept; DROP TABLE kept;
        SELECT undo('stage_stats', '', 'WITH (fillfactor = 50)');
        INSERT INTO stage_stats TABLE kept; DROP TABLE kept;
        SELECT undo('attempts', 'PARTITION BY RANGE (finished_at)', '');
        CREATE TABLE attempts_default PARTITION OF attempts DEFAULT;
        INSERT INTO attempts TABLE kept; DROP TABLE kept;
        DROP FUNCTION undo;
        ALTER TABLE tasks ADD PRIMARY KEY (job_id, stage, index);
        CREATE INDEX tasks_ready ON tasks (job_id, stage, ready_at, index) WHERE ready_at IS NOT NULL;
        CREATE INDEX tasks_again ON tasks (job_id, stage, ready_at)
            WHERE ready_at IS NOT NULL AND (failures > 0 OR losses > 0);
        ALTER TABLE stage_counters ADD PRIMARY KEY (job_id, stage, slot);
        ALTER TABLE stage_stats ADD PRIMARY KEY (job_id, stage, outcome);
        CREATE INDEX attempts_task ON attempts (job_id, stage, index);
        CREATE INDEX attempts_txid ON attempts (txid);
        DROP FUNCTION create_attempts_partitions, make_partitions, drop_partitions, make_partition, jobs_need_rows;
        DROP VIEW job_partitions;
        DROP FUNCTION first_job_at, partitioned_tables;
        """
    + made_in("0001_initial", "FUNCTION create_attempts_partitions")
    + "SELECT create_attempts_partitions(); REVOKE EXECUTE ON FUNCTION create_attempts_partitions() FROM PUBLIC; "
    "ALTER FUNCTION create_attempts_partitions() SECURITY DEFINER SET search_path = public, pg_temp;"
    + made_in("0002_functions", "FUNCTION stage_sums", "VIEW running_stages")
    + made_in("0008_quotas", "FUNCTION is_full"),
    "0011": "ALTER FUNCTION create_attempts_partitions() SECURITY INVOKER RESET ALL; "
    "GRANT EXECUTE ON FUNCTION create_attempts_partitions() TO PUBLIC",
    "0010": "ALTER TABLE workers DROP COLUMN isolation",
    "0009": "ALTER TABLE webhook_endpoints DROP generation, DROP secret_digest, DROP previous_until",
    "0008": "DROP FUNCTION is_full; ALTER TABLE stages DROP COLUMN tasks_expected; DROP TABLE shares; "
    "ALTER TABLE api_keys DROP COLUMN quotas; ALTER TABLE jobs DROP COLUMN key_id, DROP COLUMN tasks_known; "
    "ALTER TABLE schedules DROP COLUMN key_id, DROP COLUMN put_off_at; "
    "ALTER TABLE triggers DROP COLUMN key_id; ALTER TABLE uploads DROP COLUMN key_id",
    "0007": """
        DROP TABLE audit_log;
        DROP FUNCTION refuse_audit_change;
        DROP TRIGGER api_keys_principal ON api_keys;
        DROP FUNCTION name_principal;
        UPDATE api_keys SET role = 'submitter' WHERE role = 'developer';
        ALTER TABLE api_keys DROP CONSTRAINT api_keys_role_check,
            ADD CONSTRAINT api_keys_role_check CHECK (role IN ('viewer', 'submitter', 'operator')),
            DROP COLUMN principal, DROP COLUMN "all", DROP COLUMN shares, DROP COLUMN labels, DROP COLUMN pools,
            DROP COLUMN priority_max, DROP COLUMN expires_at, DROP COLUMN last_used_at, DROP COLUMN created_by;
        ALTER TABLE jobs DROP COLUMN created_by;
        ALTER TABLE schedules DROP COLUMN created_by;
        ALTER TABLE triggers DROP COLUMN created_by;
        ALTER TABLE processors DROP COLUMN created_by;
        ALTER TABLE webhook_endpoints DROP COLUMN created_by;
        ALTER TABLE uploads DROP COLUMN created_by, DROP COLUMN final_uri, DROP COLUMN aborted_at""",
    "0006": "ALTER TABLE stages DROP COLUMN columns_due",
    "0005": "DROP TABLE lost_outputs; ALTER TABLE workers DROP COLUMN release",
    "0004": "DROP INDEX bundles_put_off",
    "0003": "ALTER TABLE bundles DROP COLUMN put_off; DROP TABLE schema_compatibility",
}


async def go_back(url: str, revision: str) -> None:
    """Leave the database as it was at that revision."""
    connection = await asyncpg.connect(url)
    for undone, statements in UNDONE.items():
        if undone > revision:
            await connection.execute(statements)
    await connection.execute("UPDATE alembic_version SET version_num = $1", revision)
    await connection.close()

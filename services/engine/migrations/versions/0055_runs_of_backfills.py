"""The index of the runs of each backfill."""

from services.engine.migrations.operations import build_index

revision = "0055"
down_revision = "0054"


def upgrade() -> None:
    build_index("schedule_runs_backfill", "schedule_runs (backfill_id, scheduled_at) WHERE backfill_id IS NOT NULL")

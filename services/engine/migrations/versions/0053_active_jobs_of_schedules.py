"""The index of the jobs of schedules that have not ended: few of all that a schedule has submitted."""

from services.engine.migrations.operations import build_index

revision = "0053"
down_revision = "0052"


def upgrade() -> None:
    build_index(
        "jobs_of_schedules_active",
        "jobs (schedule_id) WHERE schedule_id IS NOT NULL AND state NOT IN ('succeeded', 'failed', 'cancelled')",
    )

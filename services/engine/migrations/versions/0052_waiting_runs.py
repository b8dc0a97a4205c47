"""The index of the runs of schedules that wait for their turn: few of all."""

from services.engine.migrations.operations import build_index

revision = "0052"
down_revision = "0051"


def upgrade() -> None:
    build_index("schedule_runs_waiting", "schedule_runs (schedule_id, scheduled_at) WHERE state = 'waiting'")

"""The index of the attempts that took a second or more: a grid has few of these in a second."""

from services.engine.migrations.operations import build_partitioned_index

revision = "0042"
down_revision = "0041"


def upgrade() -> None:
    build_partitioned_index("attempts", "slow", "(job_id, run_seconds) WHERE run_seconds >= 1")

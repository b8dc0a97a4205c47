"""The index of the attempts that have not succeeded: few of a job's tasks, whose state no index has."""

from services.engine.migrations.operations import build_partitioned_index

revision = "0041"
down_revision = "0040"


def upgrade() -> None:
    build_partitioned_index("attempts", "failed", "(job_id, stage, index) WHERE outcome <> 'succeeded'")

"""The index of the stages that are not planned yet: else those of all running jobs are read to find them."""

from services.engine.migrations.operations import build_index

revision = "0036"
down_revision = "0035"


def upgrade() -> None:
    build_index(
        "stages_unplanned",
        "stages (tasks_from, job_id, stage) "
        "WHERE NOT planned AND tasks_from <> 'successes' AND state IN ('waiting', 'running')",
    )

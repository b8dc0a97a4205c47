"""The index of the jobs whose tasks follow those of others: else all dependencies are read to find them."""

from services.engine.migrations.operations import build_index

revision = "0048"
down_revision = "0047"


def upgrade() -> None:
    build_index("job_dependencies_by_index", "job_dependencies (job_id) WHERE stage IS NOT NULL AND NOT followed")

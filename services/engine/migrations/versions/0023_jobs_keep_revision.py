"""The jobs that have ended, by the revision of the rules by which it was found when they expire."""

from services.engine.migrations.operations import build_index

revision = "0023"
down_revision = "0022"


def upgrade() -> None:
    build_index("jobs_keep_revision", "jobs (keep_revision) WHERE finished_at IS NOT NULL")

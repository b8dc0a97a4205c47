"""The jobs of which something is to be deleted, in the order in which it is due."""

from services.engine.migrations.operations import build_index

revision = "0021"
down_revision = "0020"


def upgrade() -> None:
    build_index("jobs_expire", "jobs (expires_at) WHERE expires_at IS NOT NULL")

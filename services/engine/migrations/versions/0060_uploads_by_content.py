"""The index of uploads by their content: else all of a principal's are read to find an equal one."""

from services.engine.migrations.operations import build_index

revision = "0060"
down_revision = "0059"


def upgrade() -> None:
    build_index("uploads_by_content", "uploads (sha256, created_by) WHERE sha256 IS NOT NULL AND aborted_at IS NULL")

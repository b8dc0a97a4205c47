"""The workers of a pool that took themselves out of service."""

from services.engine.migrations.operations import build_index

revision = "0024"
down_revision = "0023"


def upgrade() -> None:
    build_index("workers_quarantined", "workers (pool) WHERE quarantine IS NOT NULL")

"""The indexes by which alerts find jobs that are late, among those that have not ended."""

from services.engine.migrations.operations import build_index

revision = "0057"
down_revision = "0056"

_ACTIVE = "WHERE state NOT IN ('succeeded', 'failed', 'cancelled')"

INDEXES = {
    "jobs_due": f"jobs (coalesce(run_at, created_at)) {_ACTIVE}",
    "jobs_started": f"jobs (started_at) {_ACTIVE}",
}


def upgrade() -> None:
    for name, on in INDEXES.items():
        build_index(name, on)

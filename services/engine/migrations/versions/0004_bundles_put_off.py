"""The bundles that are put off, by stage: dispatch asks for them at each look, and nearly always there are none."""

from services.engine.migrations.operations import build_index

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    build_index("bundles_put_off", "bundles (job_id, stage) WHERE put_off > 0 AND worker_id IS NULL")

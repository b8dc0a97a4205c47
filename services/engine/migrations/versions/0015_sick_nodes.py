"""Quarantined workers, instances without a worker, task times of successes; in the SQL file of this name."""

from services.engine.migrations.operations import run_script

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    run_script(__file__)

"""Backfills of schedules; in the SQL file of this name."""

from services.engine.migrations.operations import run_script

revision = "0054"
down_revision = "0053"


def upgrade() -> None:
    run_script(__file__)

"""Placeholders in the jobs of schedules; in the SQL file of this name."""

from services.engine.migrations.operations import run_script

revision = "0050"
down_revision = "0049"


def upgrade() -> None:
    run_script(__file__)

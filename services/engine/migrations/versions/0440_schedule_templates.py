"""Placeholders in the jobs of schedules; in the SQL file of this name."""

from services.engine.migrations.operations import run_script

revision = "0440"
down_revision = "0439"


def upgrade() -> None:
    run_script(__file__)

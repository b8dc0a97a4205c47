"""Calendars of schedules; in the SQL file of this name."""

from services.engine.migrations.operations import run_script

revision = "0061"
down_revision = "0060"


def upgrade() -> None:
    run_script(__file__)

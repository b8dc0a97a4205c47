"""Calendars of schedules; in the SQL file of this name."""

from services.engine.migrations.operations import run_script

revision = "0446"
down_revision = "0344"


def upgrade() -> None:
    run_script(__file__)

"""Alerts: rules, what they have found, and what was told of it; in the SQL file of this name."""

from services.engine.migrations.operations import run_script

revision = "0056"
down_revision = "0055"


def upgrade() -> None:
    run_script(__file__)

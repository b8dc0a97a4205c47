"""Webhook secrets that are derived and rotated; in the SQL file of this name."""

from services.engine.migrations.operations import run_script

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    run_script(__file__)

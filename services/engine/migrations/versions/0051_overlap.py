"""Runs of a schedule that overlap; in the SQL file of this name."""

from services.engine.migrations.operations import run_script

revision = "0051"
down_revision = "0050"


def upgrade() -> None:
    run_script(__file__)

"""Failures that are tolerated in percent; in the SQL file of this name."""

from services.engine.migrations.operations import run_script

revision = "0046"
down_revision = "0045"


def upgrade() -> None:
    run_script(__file__)

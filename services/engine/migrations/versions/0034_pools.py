"""Pools in order of preference; in the SQL file of this name."""

from services.engine.migrations.operations import run_script

revision = "0034"
down_revision = "0033"


def upgrade() -> None:
    run_script(__file__)

"""Bounded planning, and quotas of keys and shares; in the SQL file of this name."""

from services.engine.migrations.operations import run_script

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    run_script(__file__)

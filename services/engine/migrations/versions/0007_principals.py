"""Whose keys and things are, what a key may do, and the audit log; in the SQL file of this name."""

from services.engine.migrations.operations import run_script

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    run_script(__file__)

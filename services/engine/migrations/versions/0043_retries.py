"""Retries with another version of a processor, and of tasks that have succeeded; in the SQL file of this name."""

from services.engine.migrations.operations import run_script

revision = "0043"
down_revision = "0042"


def upgrade() -> None:
    run_script(__file__)

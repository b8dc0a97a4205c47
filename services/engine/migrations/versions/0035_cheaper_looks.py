"""Looks at partitions, and at stages that wait for their tasks, that cost less; in the SQL file of this name."""

from services.engine.migrations.operations import run_script

revision = "0035"
down_revision = "0034"


def upgrade() -> None:
    run_script(__file__)

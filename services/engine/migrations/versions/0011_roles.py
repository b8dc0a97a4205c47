"""Partitions are made for a scheduler that may make no tables; in the SQL file of this name."""

from services.engine.migrations.operations import run_script

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    run_script(__file__)

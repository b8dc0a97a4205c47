"""Stages whose columns are found before their first task is sent; in the SQL file of this name."""

from services.engine.migrations.operations import run_script

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    run_script(__file__)

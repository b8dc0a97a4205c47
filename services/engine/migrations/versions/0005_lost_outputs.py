"""Outputs that are lost between stages, and who waits for them; in the SQL file of this name."""

from services.engine.migrations.operations import run_script

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    run_script(__file__)

"""Tasks that wait for the task of the same index of another job; in the SQL file of this name."""

from services.engine.migrations.operations import run_script

revision = "0047"
down_revision = "0046"


def upgrade() -> None:
    run_script(__file__)

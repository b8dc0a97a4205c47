"""Tasks that wait for the task of the same index of another job; in the SQL file of this name."""

from services.engine.migrations.operations import run_script

revision = "0341"
down_revision = "0340"


def upgrade() -> None:
    run_script(__file__)

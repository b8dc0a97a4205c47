"""When a job was retried; in the SQL file of this name."""

from services.engine.migrations.operations import run_script

revision = "0062"
down_revision = "0061"


def upgrade() -> None:
    run_script(__file__)

"""The functions that tell a task's source; in the SQL file of this name."""

from services.engine.migrations.operations import run_script

revision = "0039"
down_revision = "0038"


def upgrade() -> None:
    run_script(__file__)

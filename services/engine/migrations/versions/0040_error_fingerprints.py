"""The function that tells errors of one kind; in the SQL file of this name."""

from services.engine.migrations.operations import run_script

revision = "0040"
down_revision = "0039"


def upgrade() -> None:
    run_script(__file__)

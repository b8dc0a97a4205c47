"""What each task of a job that reuses outputs works on, by a key; in the SQL file of this name."""

from services.engine.migrations.operations import run_script

revision = "0044"
down_revision = "0043"


def upgrade() -> None:
    run_script(__file__)

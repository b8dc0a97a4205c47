"""Jobs that wait for other jobs; in the SQL file of this name."""

from services.engine.migrations.operations import run_script

revision = "0045"
down_revision = "0044"


def upgrade() -> None:
    run_script(__file__)

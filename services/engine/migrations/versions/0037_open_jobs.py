"""Open jobs; in the SQL file of this name."""

from services.engine.migrations.operations import run_script

revision = "0037"
down_revision = "0036"


def upgrade() -> None:
    run_script(__file__)

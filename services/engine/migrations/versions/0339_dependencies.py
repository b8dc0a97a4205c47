"""Jobs that wait for other jobs; in the SQL file of this name."""

from services.engine.migrations.operations import run_script

revision = "0339"
down_revision = "0240"


def upgrade() -> None:
    run_script(__file__)

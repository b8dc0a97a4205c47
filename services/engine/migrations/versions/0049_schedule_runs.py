"""The runs of schedules; in the SQL file of this name."""

from services.engine.migrations.operations import run_script

revision = "0049"
down_revision = "0048"


def upgrade() -> None:
    run_script(__file__)

"""Why jobs wait, and where the time of those that ended went; in the SQL file of this name."""

from services.engine.migrations.operations import run_script

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    run_script(__file__)

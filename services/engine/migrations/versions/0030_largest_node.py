"""The largest node of a pool; in the SQL file of this name."""

from services.engine.migrations.operations import run_script

revision = "0030"
down_revision = "0029"


def upgrade() -> None:
    run_script(__file__)

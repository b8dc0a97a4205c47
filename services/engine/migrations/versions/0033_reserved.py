"""Room that is kept for a bundle; in the SQL file of this name."""

from services.engine.migrations.operations import run_script

revision = "0033"
down_revision = "0032"


def upgrade() -> None:
    run_script(__file__)

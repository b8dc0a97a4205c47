"""Workers say how strongly their tasks are kept apart; in the SQL file of this name."""

from services.engine.migrations.operations import run_script

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    run_script(__file__)

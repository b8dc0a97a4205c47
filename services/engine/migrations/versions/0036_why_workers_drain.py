"""Why a worker drains, and what becomes of its instance; in the SQL file of this name."""

from services.engine.migrations.operations import run_script

revision = "0036"
down_revision = "0030"


def upgrade() -> None:
    run_script(__file__)

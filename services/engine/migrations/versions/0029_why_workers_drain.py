"""Why a worker drains, and what becomes of its instance; in the SQL file of this name."""

from services.engine.migrations.operations import run_script

revision = "0029"
down_revision = "0028"


def upgrade() -> None:
    run_script(__file__)

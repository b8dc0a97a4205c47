"""How long what jobs leave is kept, and what is being deleted; in the SQL file of this name."""

from services.engine.migrations.operations import run_script

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    run_script(__file__)

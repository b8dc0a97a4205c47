"""What keeps one slow party from holding up others: pauses, leases and looks; in the SQL file of this name."""

from services.engine.migrations.operations import run_script

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    run_script(__file__)

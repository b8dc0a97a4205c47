"""What is known of an upload's content; in the SQL file of this name."""

from services.engine.migrations.operations import run_script

revision = "0059"
down_revision = "0058"


def upgrade() -> None:
    run_script(__file__)

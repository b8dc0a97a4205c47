"""What attempts cost; in the SQL file of this name."""

from services.engine.migrations.operations import run_script

revision = "0031"
down_revision = "0030"


def upgrade() -> None:
    run_script(__file__)

"""Jobs that expire leave their rows to their month, which is dropped as a whole; in the SQL file of this name."""

from services.engine.migrations.operations import run_script

revision = "0030"
down_revision = "0028"


def upgrade() -> None:
    run_script(__file__)

"""Jobs that expire leave their rows to their month, which is dropped as a whole; in the SQL file of this name."""

from services.engine.migrations.operations import run_script

revision = "0028"
down_revision = "0027"


def upgrade() -> None:
    run_script(__file__)

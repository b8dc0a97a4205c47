"""What a worker's EC2 instance is; in the SQL file of this name."""

from services.engine.migrations.operations import run_script

revision = "0025"
down_revision = "0024"


def upgrade() -> None:
    run_script(__file__)

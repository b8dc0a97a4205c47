"""What several statements say alike, as functions of the schema."""

from services.engine.migrations.operations import run_script

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    run_script(__file__)

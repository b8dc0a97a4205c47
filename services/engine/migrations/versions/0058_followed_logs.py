"""Tasks whose logs are followed; in the SQL file of this name."""

from services.engine.migrations.operations import run_script

revision = "0058"
down_revision = "0057"


def upgrade() -> None:
    run_script(__file__)

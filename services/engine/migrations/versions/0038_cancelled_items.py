"""Tasks that are cancelled one by one; in the SQL file of this name."""

from services.engine.migrations.operations import run_script

revision = "0038"
down_revision = "0037"


def upgrade() -> None:
    run_script(__file__)

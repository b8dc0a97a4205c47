"""Workers say what runs their tasks in containers; in the SQL file of this name."""

from services.engine.migrations.operations import run_script

revision = "0027"
down_revision = "0026"


def upgrade() -> None:
    run_script(__file__)

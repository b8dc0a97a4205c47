"""What tasks need of a node, and what nodes have; in the SQL file of this name."""

from services.engine.migrations.operations import run_script

revision = "0026"
down_revision = "0025"


def upgrade() -> None:
    run_script(__file__)

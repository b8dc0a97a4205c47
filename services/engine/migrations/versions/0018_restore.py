"""The oldest transaction of this database, and what a restored database needs; in the SQL file of this name."""

from services.engine.migrations.operations import run_script

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    run_script(__file__)

"""A job's trace, and what holds the database back; in the SQL file of this name."""

from services.engine.migrations.operations import run_script

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    run_script(__file__)

"""When schedulers have seen the database: a lease does not end in an outage; in the SQL file of this name."""

from services.engine.migrations.operations import run_script

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    run_script(__file__)

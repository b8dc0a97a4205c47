"""Bundles that a worker could not run, and the oldest release that works on a schema; in the SQL file of this name."""

from services.engine.migrations.operations import run_script

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    run_script(__file__)

"""The rows of a job's tasks lie by month of submission, so that a month goes at once; in the SQL file of this name."""

from services.engine.migrations.operations import run_parts

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    run_parts(__file__)

"""Stands for the revision 0002 of the branch `engine`; dropped when the branches are merged."""

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    pass

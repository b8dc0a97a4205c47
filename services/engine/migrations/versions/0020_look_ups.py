"""Indexes of jobs by what they are listed by, newest first, and of the stages that the scheduler's loops look at."""

from services.engine.migrations.operations import build_index

revision = "0020"
down_revision = "0019"

INDEXES = {
    "jobs_by_name": "jobs (name, job_id)",
    "jobs_by_state": "jobs (state, job_id)",
    "jobs_by_owner": "jobs (created_by, job_id)",
    "jobs_by_share": "jobs (share, job_id)",
    "stages_running": "stages (job_id, stage) WHERE state = 'running'",
}


def upgrade() -> None:
    for name, on in INDEXES.items():
        build_index(name, on)

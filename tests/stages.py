"""A stage of a job as a worker knows it, for tests without a database."""

from typing import Any
from uuid import UUID

from services.engine.attempt import StageWork
from services.engine.spec import ProcessorSpec


def stage_work(job_id: UUID, spec: ProcessorSpec, *, timeout_seconds: float = 60.0, **fields: Any) -> StageWork:
    """The first stage of a job, which has no files and limits but these."""
    return StageWork(
        job_id=job_id,
        stage=0,
        job_name="j",
        stage_name="s",
        kind="map",
        processor="p",
        processor_version=1,
        spec=spec,
        timeout_seconds=timeout_seconds,
        **fields,
    )

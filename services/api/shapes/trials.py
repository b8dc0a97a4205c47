"""All that it takes to run a task elsewhere."""

from typing import Any
from uuid import UUID

from pydantic import BaseModel, Field


class TrialObject(BaseModel):
    """An object that the task reads."""

    uri: str
    version: str | None
    url: str = Field(description="presigned; valid for a limited time")


class Trial(BaseModel):
    """A task as a worker gets it, with links to what it reads. Secrets are not among it."""

    job_id: UUID
    stage: int
    index: int
    attempt: int = Field(description="number of the attempt that a worker would make next")
    input: dict[str, Any]
    work: dict[str, Any] = Field(description="what a worker knows about the stage, with the processor's specification")
    place: str = Field(description="URI of the prefix of Piecework's own objects", examples=["s3://piecework/"])
    objects: list[TrialObject]

"""All that it takes to run a task, or a processor, elsewhere."""

from typing import Any
from uuid import UUID

from pydantic import BaseModel, Field

from services.engine.spec import ProcessorSpec


class TrialObject(BaseModel):
    """An object that is read."""

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


class ProcessorTrial(BaseModel):
    """A version of a processor, with links to its package and to the declared inputs that it names itself.

    Secrets are not among it.
    """

    name: str
    version: int
    spec: ProcessorSpec
    place: str = Field(description="URI of the prefix of Piecework's own objects", examples=["s3://piecework/"])
    objects: list[TrialObject]

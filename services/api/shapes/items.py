"""Items that come while a job runs, and the values that its tasks leave."""

from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, Field

from services.api.shapes.jobs import Failure
from services.contract.fields import Strict
from services.contract.states import TaskState


class ItemsChunk(Strict):
    """The next items of an open job."""

    chunk: Annotated[int, Field(ge=0, le=2_147_483_646)] = Field(description="number of the chunk, from 0")
    items: Annotated[list[Any], Field(max_length=1_000_000)]


class AppendedItems(BaseModel):
    """What an open job has so far."""

    job_id: UUID
    chunks: int = Field(description="chunks that it has, which is the number of the next one")
    items: int = Field(description="items that it has: task 0 is the first one's")


class ItemNumbers(Strict):
    """Items of an open job."""

    items: Annotated[list[Annotated[int, Field(ge=0, le=2_147_483_646)]], Field(min_length=1, max_length=1_000)] = (
        Field(description="their numbers: the first item of the job has 0")
    )


class CancelledItems(BaseModel):
    """Which of these items are cancelled, now or before. The others had ended."""

    job_id: UUID
    cancelled: list[int]


class Value(BaseModel):
    """How a task has ended."""

    index: int
    state: TaskState = Field(examples=["succeeded"])
    attempt: int
    value: Any = Field(description="what it returned; null: nothing, or its output is an object")
    url: str | None = Field(description="presigned link to its output, if that is an object")
    error: Failure | None
    log_url: str | None = Field(description="presigned link to what its last attempt printed, if it has failed")


class Values(BaseModel):
    """Tasks that have ended, in this order."""

    values: list[Value]
    after: str = Field(description="the cursor after them")
    ended: bool = Field(description="nothing follows: the job has ended")

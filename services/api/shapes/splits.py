"""Splits: what an input would be cut into."""

from typing import Annotated, Any

from pydantic import BaseModel, Field

from services.contract.fields import Name, Strict
from services.inputs.spec import Inputs


class SplitSpec(Strict):
    """An input, or inputs, as in a job."""

    input: Inputs
    pool: Name = Field("default", description="whose slots suggest the size of parts, unless the input says it")
    parts_max: Annotated[int, Field(ge=0, le=1000)] = Field(20, description="how many of the parts to show")


class SplitPart(BaseModel):
    """A part: what a task of the first stage would work on."""

    index: int
    bytes: int | None = Field(description="of its records; null where that is not known before")
    input: dict[str, Any] = Field(examples=[{"type": "bytes", "uri": "s3://piecework/a.csv", "start": 0, "end": 100}])


class Split(BaseModel):
    """What an input would be cut into."""

    count: int = Field(description="parts in all")
    bytes: int | None = Field(description="of all parts; null where that is not known before")
    exact: bool = Field(description="whether count and bytes are known and not estimated")
    notes: list[str] = Field(description="why they are not exact")
    part_bytes: int | None = Field(description="target size of a part; null if parts are not made by size")
    parts: list[SplitPart] = Field(description="the first parts; none of what a task of the grid will split")

"""Splits: the parts that an input would be cut into."""

from typing import Annotated, Any

from pydantic import BaseModel, Field

from services.contract.fields import Name, Strict
from services.inputs.spec import Inputs


class SplitSpec(Strict):
    """An input, or inputs, as in a job."""

    input: Inputs
    pool: Name = Field("default", description="the pool's slots determine the size of parts, unless the input sets it")
    parts_max: Annotated[int, Field(ge=0, le=1000)] = Field(20, description="how many of the parts to show")


class SplitPart(BaseModel):
    """A part, the input of one task of the first stage."""

    index: int
    bytes: int | None = Field(description="bytes of its records; null if unknown in advance")
    input: dict[str, Any] = Field(examples=[{"type": "bytes", "uri": "s3://piecework/a.csv", "start": 0, "end": 100}])


class Split(BaseModel):
    """The parts that an input would be cut into."""

    count: int = Field(description="parts in all")
    bytes: int | None = Field(description="bytes of all parts; null if unknown in advance")
    exact: bool = Field(description="whether count and bytes are exact, not estimated")
    notes: list[str] = Field(description="why they are not exact, and what is left out")
    part_bytes: int | None = Field(description="target size of a part; null if parts are not made by size")
    columns: dict[str, Any] | None = Field(
        description="types of the columns as SQL finds them in samples; null for files that tell them, and if a task "
        "on the grid must read the input first",
        examples=[{"id": "int64", "zip": "text"}],
    )
    parts: list[SplitPart] = Field(description="the first parts; empty for an input that a task on the grid splits")

"""Processors: registered, versioned pieces of work."""

from datetime import datetime
from typing import Annotated

from pydantic import Field

from services.api.pagination import Page
from services.api.shapes.row import Row, Stored
from services.contract.fields import Name
from services.engine.spec import ProcessorSpec


class ProcessorRegistration(ProcessorSpec):
    """A new version of a processor."""

    name: Name
    description: Annotated[str, Field(max_length=10_000)] = ""


class Processor(Row):
    """A version of a processor."""

    name: str
    version: int
    description: str
    spec: Stored[ProcessorSpec]
    created_at: datetime
    created_by: str | None = Field(description="the principal that registered it; null: before there were any")


class ProcessorDetail(Processor):
    """A version of a processor, and the numbers of its other versions."""

    versions: list[int]


class ProcessorPage(Page[Processor]):
    """The newest version of each processor, by name."""

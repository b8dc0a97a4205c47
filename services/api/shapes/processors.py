"""Processors: registered, versioned pieces of work."""

from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from services.api.pagination import Page
from services.api.shapes.row import Row, Stored
from services.contract.fields import Name
from services.engine.arguments import names_its_program
from services.engine.spec import ProcessorSpec
from services.platform.auth import Key

HIDDEN = "***"


class ProcessorRegistration(ProcessorSpec):
    """A new version of a processor."""

    name: Name
    description: Annotated[str, Field(max_length=10_000)] = ""

    @model_validator(mode="after")
    def _program_is_fixed(self) -> Self:
        if names_its_program(self):
            raise ValueError(
                "command: a param can't be the program itself; name the program, and have params be its arguments"
            )
        return self


class Processor(Row):
    """A version of a processor."""

    name: str
    version: int
    description: str
    spec: Stored[ProcessorSpec]
    created_at: datetime
    created_by: str | None = Field(description="the principal that registered it; null: before there were any")

    def seen_by(self, key: Key) -> Self:
        """Without the values of `environment`, unless the key may register processors."""
        return self if key.has_role("developer") else self.model_copy(update={"spec": _without_values(self.spec)})


def _without_values(spec: Any) -> Any:
    """Of a specification, or of a newer release's, which is a mapping."""
    if isinstance(spec, ProcessorSpec):
        return spec.model_copy(update={"environment": dict.fromkeys(spec.environment, HIDDEN)})
    return {**spec, "environment": dict.fromkeys(spec.get("environment") or {}, HIDDEN)}


class ProcessorDetail(Processor):
    """A version of a processor, and the numbers of its other versions."""

    versions: list[int]


class ProcessorPage(Page[Processor]):
    """The newest version of each processor, by name."""

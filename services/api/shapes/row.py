"""The base of shapes that show a database row."""

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, SerializeAsAny, ValidationError, ValidatorFunctionWrapHandler, WrapValidator


class Row(BaseModel):
    """Made from a table model or a mapping; columns that the shape does not name stay inside."""

    model_config = ConfigDict(from_attributes=True)


def _read(value: Any, read: ValidatorFunctionWrapHandler) -> Any:
    try:
        return read(value)
    except ValidationError:
        return value


Specification = TypeVar("Specification", bound=BaseModel)

# A specification as it is stored: with defaults for what it lacks, or, where this release does not know all that it
# says, since a newer one has stored it, just as it stands.
Stored = Annotated[SerializeAsAny[Specification], WrapValidator(_read)]

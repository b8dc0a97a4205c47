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

# A stored specification, with defaults for missing fields. If a newer release has stored it and this one does not know
# all of it, it is shown unchanged.
Stored = Annotated[SerializeAsAny[Specification], WrapValidator(_read)]

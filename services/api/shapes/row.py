"""The base of shapes that show a database row."""

from pydantic import BaseModel, ConfigDict


class Row(BaseModel):
    """Made from a table model or a mapping; columns that the shape does not name stay inside."""

    model_config = ConfigDict(from_attributes=True)

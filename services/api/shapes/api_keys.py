"""API keys."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import Field

from services.api.pagination import Page
from services.api.shapes.row import Row
from services.contract.fields import Strict
from services.platform.auth import Role


class ApiKeySpec(Strict):
    """Who the key is for, and what it may do."""

    name: Annotated[str, Field(min_length=1, max_length=200)] = Field(examples=["nightly-export"])
    role: Role


class ApiKey(Row):
    """A key, without its secret."""

    key_id: UUID
    name: str
    role: Role
    created_at: datetime
    revoked_at: datetime | None


class CreatedApiKey(ApiKey):
    """A new key."""

    secret: str = Field(description="send it as `Authorization: Bearer <secret>`; shown only once, not stored")


class ApiKeyPage(Page[ApiKey]):
    """Keys, newest first."""

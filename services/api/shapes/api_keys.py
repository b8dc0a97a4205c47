"""API keys."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, Field, model_validator

from services.api.pagination import Page
from services.api.shapes.row import Row
from services.contract.fields import Name, Strict
from services.platform.auth import Role


def _check_printable(value: str) -> str:
    if not value.isprintable():
        raise ValueError("write it in one line, without control characters")
    return value


PrintableName = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_check_printable)]

_LIMITS = ("shares", "labels", "pools", "priority_max")


class ApiKeySpec(Strict):
    """Whose the key is, and what it may do."""

    name: PrintableName = Field(examples=["nightly-export"])
    role: Role
    principal: PrintableName | None = Field(
        None,
        description="the person or system that the key belongs to; what its keys make is controlled by each of them; "
        "absent: the key's name",
        examples=["anna@example.com"],
    )
    all: bool = Field(False, description="controls what belongs to others, too, if it sees it")
    shares: Annotated[list[Name], Field(max_length=20)] = Field(
        [],
        description="sees and submits only jobs of these shares (the first one unless a job says which), and controls "
        "all of them; empty: any",
    )
    labels: Annotated[dict[Name, Annotated[str, Field(max_length=256)]], Field(max_length=20)] = Field(
        {}, description="sees only jobs with these labels; its own jobs get them"
    )
    pools: Annotated[list[Name], Field(max_length=20)] = Field(
        [], description="submits only to these pools (the first one unless a stage says which); empty: any"
    )
    priority_max: Annotated[int, Field(ge=-100, le=100)] | None = Field(
        None,
        description="the highest of its jobs; absent: 0, since a higher one goes before the jobs of all others, or any "
        "if the key has `all`",
    )
    expires_at: AwareDatetime | None = Field(None, description="when it ends; absent: never")

    @model_validator(mode="after")
    def _operators_are_free(self) -> "ApiKeySpec":
        limits = [name for name in _LIMITS if getattr(self, name) not in (None, [], {})]
        if self.role == "operator" and limits:
            raise ValueError(f"{limits[0]}: an operator runs the whole grid; leave it out, or give another role")
        return self

    def columns(self) -> dict[str, Any]:
        """The row's values but for its id and its hash."""
        priority_max = self.priority_max
        if priority_max is None and self.role in ("submitter", "developer") and not self.all:
            priority_max = 0
        return self.model_dump() | {"principal": self.principal or self.name, "priority_max": priority_max}


class ApiKey(Row):
    """A key, without its secret."""

    key_id: UUID
    name: str
    role: Role
    principal: str
    all: bool
    shares: list[str]
    labels: dict[str, str]
    pools: list[str]
    priority_max: int | None
    expires_at: datetime | None
    last_used_at: datetime | None = Field(description="to the minute")
    created_at: datetime
    created_by: str | None = Field(description="the principal that made it; null: before there were any")
    revoked_at: datetime | None


class CreatedApiKey(ApiKey):
    """A new key."""

    secret: str = Field(description="send it as `Authorization: Bearer <secret>`; shown only once, not stored")


class ApiKeyPage(Page[ApiKey]):
    """Keys, newest first."""

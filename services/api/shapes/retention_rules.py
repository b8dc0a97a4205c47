"""How long what jobs leave is kept."""

from datetime import datetime
from typing import Annotated

from pydantic import Field

from services.api.pagination import Page
from services.api.shapes.row import Row, Stored
from services.contract.fields import Name, Strict
from services.engine.spec import Keep


class RetentionRuleSpec(Strict):
    """What jobs a rule is for, and for how long it keeps what they leave."""

    labels: dict[Name, Annotated[str, Field(max_length=256)]] = Field(
        {}, max_length=64, description="a job must have all of them; none for the rule `default` only"
    )
    keep: Keep


class RetentionRule(Row):
    """A rule."""

    name: str
    labels: dict[str, str]
    keep: Stored[Keep]
    created_at: datetime


class RetentionRulePage(Page[RetentionRule]):
    """Rules by name."""

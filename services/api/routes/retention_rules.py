"""How long what jobs leave is kept: interim data, results, records."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Path
from sqlmodel import select

from services.api import tables
from services.api.connections import Api, Session
from services.api.pagination import Pages
from services.api.problems import BODY
from services.api.security import Operator, Viewer
from services.api.shapes.retention_rules import RetentionRule, RetentionRulePage, RetentionRuleSpec
from services.api.strict_json import StrictRoute
from services.engine import retention
from services.platform.problems import invalid, not_found, problems

router = APIRouter(prefix="/retention-rules", tags=["retention"], route_class=StrictRoute)

RuleName = Annotated[str, Path(pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$", max_length=100, examples=["default"])]

EXAMPLES: Any = {
    "default": {
        "summary": "For jobs that no other rule is for",
        "value": {"keep": {"interim": "1d", "results": "forever", "records": "90d"}},
    },
    "labelled": {
        "summary": "For jobs with a label",
        "value": {"labels": {"class": "audit"}, "keep": {"results": "3650d", "records": "3650d"}},
    },
}


@router.get("", operation_id="list_retention_rules", summary="List retention rules")
async def list_retention_rules(_key: Viewer, session: Session, pages: Pages) -> RetentionRulePage:
    """Rules by name. What a job says itself comes first.

    Of the rules whose labels it has, the one that keeps a part longest counts, and `default` for what no other says.
    """
    rows, next_cursor = await pages.fetch(session, select(tables.RetentionRule), tables.RetentionRule.name)
    return RetentionRulePage(items=[RetentionRule.model_validate(row) for row in rows], next_cursor=next_cursor)


@router.get("/{name}", operation_id="get_retention_rule", responses=problems(404), summary="Inspect a retention rule")
async def get_retention_rule(_key: Viewer, session: Session, name: RuleName) -> RetentionRule:
    """A rule."""
    row = await session.get(tables.RetentionRule, name)
    if row is None:
        raise not_found("retention rule", name)
    return RetentionRule.model_validate(row)


@router.put(
    "/{name}", operation_id="put_retention_rule", responses=problems(*BODY), summary="Add or change a retention rule"
)
async def put_retention_rule(
    caller: Operator, api: Api, name: RuleName, spec: Annotated[RetentionRuleSpec, Body(openapi_examples=EXAMPLES)]
) -> RetentionRule:
    """Say how long what jobs leave is kept, from their end. It holds for jobs that have ended already, too.

    A part that `default` does not name is kept for ever.
    """
    if name == retention.DEFAULT and spec.labels:
        raise invalid("labels", spec.labels, "the rule `default` is for all jobs: leave them out, or name another rule")
    if name != retention.DEFAULT and not spec.labels:
        raise invalid("labels", {}, "name labels that jobs must have; for all jobs, change the rule `default`")
    async with api.transaction() as connection:
        row = await retention.put_rule(connection, name, spec.labels, spec.keep)
        await caller.record(connection, name, labels=spec.labels, keep=row["keep"])
        return RetentionRule.model_validate(dict(row))


@router.delete(
    "/{name}",
    operation_id="delete_retention_rule",
    status_code=204,
    responses=problems(404, 409),
    summary="Delete a retention rule",
)
async def delete_retention_rule(caller: Operator, api: Api, name: RuleName) -> None:
    """Delete a rule: the others hold for its jobs."""
    async with api.transaction() as connection:
        await retention.delete_rule(connection, name)
        await caller.record(connection, name)

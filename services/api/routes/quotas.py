"""How much of the grid keys and shares may use at a time."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Body, Path
from sqlmodel import col, select

from services.api import tables
from services.api.connections import Api, Connections, Session
from services.api.pagination import Pages
from services.api.problems import BODY
from services.api.security import Operator, Viewer
from services.api.shapes.quotas import KeyUse, Share, SharePage, ShareUse
from services.api.strict_json import StrictRoute
from services.engine.quotas import KeyQuotas, ShareQuotas, quotas_of_key, quotas_of_share
from services.platform.problems import not_found, problems

router = APIRouter(tags=["quotas"], route_class=StrictRoute)

KeyId = Annotated[UUID, Path(examples=["01970000-0000-7000-8000-000000000000"])]
ShareName = Annotated[str, Path(min_length=1, max_length=100, examples=["claims"])]

KEY_EXAMPLES: Any = {"small": {"summary": "For a trial", "value": {"jobs_max": 10, "tasks_max": 100000}}}
SHARE_EXAMPLES: Any = {"team": {"summary": "For a team", "value": {"jobs_max": 100, "priority_max": 0}}}


async def _show_key(api: Connections, key_id: UUID) -> KeyUse:
    row = await api.database.fetchrow("SELECT name, quotas FROM api_keys WHERE key_id = $1", key_id)
    if row is None:
        raise not_found("API key", key_id)
    quotas = await quotas_of_key(api.database, api.settings, key_id, row["quotas"])
    return KeyUse(name=row["name"], own=KeyQuotas.model_validate(row["quotas"], extra="ignore"), quotas=quotas)


@router.get("/quotas", operation_id="get_own_quotas", summary="What this key may use")
async def get_own_quotas(key: Viewer, api: Api) -> KeyUse:
    """The quotas of the key that the request carries, and what it uses of them."""
    return await _show_key(api, key.key_id)


@router.get(
    "/api-keys/{key_id}/quotas", operation_id="get_key_quotas", responses=problems(404), summary="Quotas of a key"
)
async def get_key_quotas(_key: Operator, api: Api, key_id: KeyId) -> KeyUse:
    """What a key may use, and uses."""
    return await _show_key(api, key_id)


@router.put(
    "/api-keys/{key_id}/quotas",
    operation_id="set_key_quotas",
    responses=problems(*BODY, 404),
    summary="Set the quotas of a key",
)
async def set_key_quotas(
    caller: Operator, api: Api, key_id: KeyId, quotas: Annotated[KeyQuotas, Body(openapi_examples=KEY_EXAMPLES)]
) -> KeyUse:
    """Give a key quotas of its own; those that are not given are as the settings say again.

    What is used already stays. A rate takes effect within a minute.
    """
    own = quotas.model_dump(exclude_none=True)
    async with api.transaction() as connection:
        await connection.execute("UPDATE api_keys SET quotas = $2 WHERE key_id = $1", key_id, own)
        await caller.record(connection, key_id, quotas=own)
    return await _show_key(api, key_id)


@router.get("/shares", operation_id="list_shares", summary="List shares with quotas")
async def list_shares(caller: Viewer, session: Session, pages: Pages) -> SharePage:
    """Shares that have quotas of their own, by name. A key with shares sees only these."""
    statement = select(tables.Share)
    if caller.shares:
        statement = statement.where(col(tables.Share.name).in_(caller.shares))
    rows, next_cursor = await pages.fetch(session, statement, tables.Share.name)
    items = [Share(name=row.name, own=ShareQuotas.model_validate(row.quotas, extra="ignore")) for row in rows]
    return SharePage(items=items, next_cursor=next_cursor)


async def _show_share(api: Connections, name: str) -> ShareUse:
    own = await api.database.fetchval("SELECT quotas FROM shares WHERE name = $1", name) or {}
    quotas = await quotas_of_share(api.database, api.settings, name, own)
    return ShareUse(name=name, own=ShareQuotas.model_validate(own, extra="ignore"), quotas=quotas)


@router.get("/shares/{name}", operation_id="get_share", responses=problems(404), summary="Quotas of a share")
async def get_share(caller: Viewer, api: Api, name: ShareName) -> ShareUse:
    """What the jobs of a share may use together, and use. Any name that jobs may give is a share."""
    if caller.shares and name not in caller.shares:
        raise not_found("share", name)
    return await _show_share(api, name)


_SET_SHARE = """
    INSERT INTO shares (name, quotas) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET quotas = excluded.quotas"""


@router.put("/shares/{name}", operation_id="set_share", responses=problems(*BODY), summary="Set the quotas of a share")
async def set_share(
    caller: Operator, api: Api, name: ShareName, quotas: Annotated[ShareQuotas, Body(openapi_examples=SHARE_EXAMPLES)]
) -> ShareUse:
    """Give a share quotas of its own; those that are not given are as the settings say again. What is used stays."""
    own = quotas.model_dump(exclude_none=True)
    async with api.transaction() as connection:
        await connection.execute(_SET_SHARE, name, own)
        await caller.record(connection, name, quotas=own)
    return await _show_share(api, name)

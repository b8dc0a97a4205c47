"""Who may call the API."""

from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Body, Path, Response
from sqlmodel import select

from services.api import tables
from services.api.connections import Api, Session
from services.api.idempotency import Registration
from services.api.pagination import Pages
from services.api.problems import BODY
from services.api.security import Operator, Viewer, describe_changes
from services.api.shapes.api_keys import ApiKey, ApiKeyPage, ApiKeySpec, CreatedApiKey
from services.api.strict_json import StrictRoute
from services.platform.auth import hash_secret, new_secret
from services.platform.database import Connection, new_id
from services.platform.problems import conflict, invalid, not_found, problems

router = APIRouter(tags=["API keys"], route_class=StrictRoute)

KeyId = Annotated[UUID, Path(examples=["01970000-0000-7000-8000-000000000000"])]

_INSERT = """
    INSERT INTO api_keys (key_id, key_hash, created_by, name, role, principal, "all", shares, labels, pools,
        priority_max, expires_at)
    SELECT $1, $2, $3, name, role, principal, "all", shares, labels, pools, priority_max, expires_at
    FROM json_populate_recordset(NULL::api_keys, $4::json) RETURNING *"""

_LASTING_OPERATORS = """
    SELECT key_id FROM api_keys WHERE role = 'operator' AND revoked_at IS NULL AND expires_at IS NULL
    ORDER BY key_id FOR UPDATE"""

EXAMPLES: Any = {
    "submitter": {"summary": "For a system that submits jobs", "value": {"name": "nightly", "role": "submitter"}},
    "person": {
        "summary": "For a member of a team that sees only its own share",
        "value": {
            "name": "anna's laptop",
            "role": "submitter",
            "principal": "anna@example.com",
            "shares": ["finance"],
            "priority_max": 10,
            "expires_at": "2099-12-31T23:00:00Z",
        },
    },
}


@router.post(
    "/api-keys",
    operation_id="create_api_key",
    status_code=201,
    response_model=CreatedApiKey,
    responses=problems(*BODY, 409),
    summary="Create an API key",
)
async def create_api_key(
    creation: Registration, spec: Annotated[ApiKeySpec, Body(openapi_examples=EXAMPLES)]
) -> Response:
    """The answer's `secret` is the key. It is shown only once and not stored. So if the request is repeated with its
    Idempotency-Key, it creates nothing and gets a 409 that names the key."""
    if spec.expires_at is not None and spec.expires_at <= datetime.now(UTC):
        raise invalid("expires_at", spec.expires_at.isoformat(), "this time has passed; give a later one, or none")

    async def create(connection: Connection) -> CreatedApiKey:
        secret = new_secret()
        row = await connection.fetchrow(
            _INSERT, new_id(), hash_secret(secret), creation.caller.principal, [spec.columns()]
        )
        assert row is not None
        what = describe_changes(spec.columns()) | {"expires_at": spec.expires_at and spec.expires_at.isoformat()}
        await creation.caller.record(connection, row["key_id"], **what)
        return CreatedApiKey.model_validate({**row, "secret": secret})

    return await creation.once(create, secret_field="secret")


@router.get("/api-keys", operation_id="list_api_keys", summary="List API keys")
async def list_api_keys(_caller: Operator, session: Session, pages: Pages) -> ApiKeyPage:
    """Keys, newest first, revoked ones included."""
    rows, next_cursor = await pages.fetch(session, select(tables.ApiKey), tables.ApiKey.key_id, newest_first=True)
    return ApiKeyPage(items=[ApiKey.model_validate(row) for row in rows], next_cursor=next_cursor)


@router.delete(
    "/api-keys/{key_id}",
    operation_id="revoke_api_key",
    status_code=204,
    responses=problems(404, 409),
    summary="Revoke an API key",
)
async def revoke_api_key(caller: Operator, api: Api, key_id: KeyId) -> None:
    """Revoke a key; it stops working at once. The last operator's key that does not expire stays. Safe to
    repeat."""
    async with api.transaction() as connection:
        # Locks the operators' keys in one order, so that two of them can't revoke each other at the same time.
        operators = await connection.fetch(_LASTING_OPERATORS)
        if [row["key_id"] for row in operators] == [key_id]:
            raise conflict("this is the last operator's key that does not expire; create another one first")
        status = await connection.execute(
            "UPDATE api_keys SET revoked_at = coalesce(revoked_at, now()) WHERE key_id = $1", key_id
        )
        if status == "UPDATE 0":
            raise not_found("API key", key_id)
        await caller.record(connection, key_id)


@router.get("/me", operation_id="get_me", summary="Inspect your own key")
async def get_me(caller: Viewer, session: Session) -> ApiKey:
    """The key of this request: whose it is, what it may do and see, and when it ends."""
    return ApiKey.model_validate(await session.get(tables.ApiKey, caller.key_id))

"""Requests that a client can safely repeat: `Idempotency-Key` names a request, and its answer is stored.

One transaction writes the key and whatever the request creates. So there is never a key without its creation, a failed
request leaves its key free, and a concurrent duplicate waits for the first request and repeats its answer.
"""

import hashlib
import json
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from asyncpg import Record
from fastapi import Depends, Header, Request, Response
from pydantic import BaseModel

from services.api.connections import Api
from services.api.security import Caller, Developer, Operator, Submitter
from services.platform.database import Connection, Database
from services.platform.problems import ProblemError, conflict, invalid

_CLAIM = """
    INSERT INTO idempotency_keys (key_id, idempotency_key, request_hash) VALUES ($1, $2, $3)
    ON CONFLICT DO NOTHING"""

_STORED = """
    SELECT request_hash, status_code, response FROM idempotency_keys WHERE key_id = $1 AND idempotency_key = $2"""

_STORE = """
    UPDATE idempotency_keys SET status_code = $3, response = $4 WHERE key_id = $1 AND idempotency_key = $2"""

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        description="any text of your choice, such as a UUID; repeating the request with it creates nothing more",
    ),
]


class Creation:
    """One creating request of one API key."""

    def __init__(self, request: Request, api: Api, caller: Caller, idempotency_key: str | None) -> None:
        self._request = request
        self._api = api
        self.caller = caller
        self._name = idempotency_key

    async def once(
        self,
        create: Callable[[Connection], Awaitable[BaseModel]],
        *,
        prepare: Callable[[], Awaitable[None]] | None = None,
        secret_field: str | None = None,
        restore: Callable[[dict[str, Any]], BaseModel] | None = None,
    ) -> Response:
        """Run `create` in a transaction and answer 201 with its result, or repeat the answer of the first request.

        `prepare` runs first, unless the request is a repetition, so that no connection is held during calls to S3. The
        `secret_field` of an answer is not stored: a repetition of such a request gets a 409, unless the secret can be
        told again by `restore`, from what is stored.
        """
        if prepare is not None and (self._name is None or await self._stored(self._api.database) is None):
            await prepare()
        async with self._api.transaction() as connection:
            if self._name is not None and (stored := await self._claim(connection)) is not None:
                replayed = {"Idempotency-Replayed": "true"}
                if restore is not None:
                    again = restore(json.loads(stored["response"])).model_dump_json()
                    return Response(again, stored["status_code"], replayed, "application/json")
                if secret_field is not None:
                    raise conflict(
                        f"this Idempotency-Key has created {stored['response']}; its {secret_field} was shown once "
                        "and is not stored; revoke it and create another with a new Idempotency-Key"
                    )
                return Response(stored["response"], stored["status_code"], replayed, "application/json")
            created = await create(connection)
            if self._name is not None:
                kept = created.model_dump_json(exclude={secret_field} if secret_field else None)
                await connection.execute(_STORE, self.caller.key_id, self._name, 201, kept)
        return Response(created.model_dump_json(), 201, media_type="application/json")

    async def _claim(self, connection: Connection) -> Record | None:
        """The stored answer, or None if the key is now ours; waits while another request with the key runs."""
        request_hash = await self._hash()
        if await connection.execute(_CLAIM, self.caller.key_id, self._name, request_hash) == "INSERT 0 1":
            return None
        row = await self._stored(connection)
        if row is None:  # deleted as too old between the two statements
            raise ProblemError(503, "unavailable", "this Idempotency-Key has just expired; send the request again")
        if row["request_hash"] != request_hash:
            message = "this key was used for a different request; use a new key for a new request"
            raise invalid("Idempotency-Key", self._name, message)
        return row

    async def _stored(self, connection: Connection | Database) -> Record | None:
        return await connection.fetchrow(_STORED, self.caller.key_id, self._name)

    async def _hash(self) -> str:
        head = f"{self._request.method} {self._request.url.path}\n".encode()
        return hashlib.sha256(head + await self._request.body()).hexdigest()


def _submission(request: Request, api: Api, key: Submitter, idempotency_key: IdempotencyKey = None) -> Creation:
    return Creation(request, api, key, idempotency_key)


def _development(request: Request, api: Api, key: Developer, idempotency_key: IdempotencyKey = None) -> Creation:
    return Creation(request, api, key, idempotency_key)


def _registration(request: Request, api: Api, key: Operator, idempotency_key: IdempotencyKey = None) -> Creation:
    return Creation(request, api, key, idempotency_key)


Submission = Annotated[Creation, Depends(_submission)]  # requires the role submitter
Development = Annotated[Creation, Depends(_development)]  # requires the role developer
Registration = Annotated[Creation, Depends(_registration)]  # requires the role operator

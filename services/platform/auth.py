"""API keys: callers and their roles. Framework-free, shared by the API and the stats service."""

import hashlib
import secrets
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from services.platform.database import Connection, Database, new_id

Role = Literal["viewer", "submitter", "operator"]

_RANK: dict[str, int] = {"viewer": 0, "submitter": 1, "operator": 2}


class Unauthorized(Exception):
    """No key, or one that is unknown or revoked; the message tells the caller what to send."""


class Forbidden(Exception):
    """The key is good but its role is too low; the message names both roles."""


@dataclass(frozen=True, slots=True)
class Key:
    """An authenticated API key."""

    key_id: UUID
    name: str
    role: Role

    def require(self, role: Role) -> None:
        """Raises Forbidden unless this key's role is `role` or a higher one."""
        if _RANK[self.role] < _RANK[role]:
            raise Forbidden(f"this needs the role {role}; the key {self.name!r} has the role {self.role}")


def new_secret() -> str:
    """A fresh key as its owner sees it; only its hash is ever stored."""
    return f"pw_{secrets.token_urlsafe(32)}"


def hash_secret(secret: str) -> str:
    """SHA-256 in hex: enough for keys with 256 random bits, and quick enough for every request."""
    return hashlib.sha256(secret.encode()).hexdigest()


async def authenticate(database: Database, authorization: str | None) -> Key:
    """The key of an `Authorization: Bearer <key>` header; raises Unauthorized."""
    scheme, _, secret = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not secret.strip():
        raise Unauthorized("send your API key as `Authorization: Bearer <key>`")
    row = await database.fetchrow(
        "SELECT key_id, name, role FROM api_keys WHERE key_hash = $1 AND revoked_at IS NULL",
        hash_secret(secret.strip()),
    )
    if row is None:
        raise Unauthorized("this API key is unknown or revoked")
    return Key(row["key_id"], row["name"], row["role"])


async def register_bootstrap_key(connection: Connection | Database, secret: str) -> bool:
    """Make `secret` an operator's key if there is no key at all yet; True if it was made."""
    status = await connection.execute(
        "INSERT INTO api_keys (key_id, name, role, key_hash) "
        "SELECT $1, 'bootstrap', 'operator', $2 WHERE NOT EXISTS (SELECT FROM api_keys) ON CONFLICT DO NOTHING",
        new_id(),
        hash_secret(secret),
    )
    return status == "INSERT 0 1"

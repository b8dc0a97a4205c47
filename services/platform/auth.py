"""API keys: callers, their roles and their scopes. Framework-free, shared by the API and the stats service."""

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal
from uuid import UUID

import structlog

from services.platform.database import Connection, Database, new_id

Role = Literal["viewer", "submitter", "developer", "operator"]

_RANK: dict[str, int] = {"viewer": 0, "submitter": 1, "developer": 2, "operator": 3}

log = structlog.get_logger()


class Unauthorized(Exception):
    """No key, or one that is unknown, revoked or expired; the message tells the caller what to send."""


class Forbidden(Exception):
    """The key is good but may not do this; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Key:
    """An authenticated API key. Without shares and labels it reads everything; `all` lets it control everything, too.
    What it reads and controls is decided in services/engine/ownership.py."""

    key_id: UUID
    name: str
    role: Role
    principal: str
    all: bool = False
    shares: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    pools: tuple[str, ...] = ()
    priority_max: int | None = None

    @property
    def is_scoped(self) -> bool:
        """Whether it sees only what has certain shares or labels."""
        return bool(self.shares or self.labels)

    def has_role(self, role: Role) -> bool:
        """Whether this key's role is `role` or a higher one."""
        return _RANK[self.role] >= _RANK[role]

    def require(self, role: Role) -> None:
        """Raises Forbidden unless this key's role is `role` or a higher one."""
        if not self.has_role(role):
            raise Forbidden(f"this needs the role {role}; the key {self.name!r} has the role {self.role}")


def new_secret() -> str:
    """A fresh key as its owner sees it; only its hash is ever stored."""
    return f"pw_{secrets.token_urlsafe(32)}"


def hash_secret(secret: str) -> str:
    """SHA-256 in hex: enough for keys with 256 random bits, and quick enough for every request."""
    return hashlib.sha256(secret.encode()).hexdigest()


_FIND = """
    SELECT key_id, name, role, principal, "all", shares, labels, pools, priority_max, expires_at,
        expires_at <= now() AS expired, last_used_at IS NULL OR last_used_at < now() - interval '1 minute' AS unnoted
    FROM api_keys WHERE key_hash = $1 AND revoked_at IS NULL"""

_NOTE_USE = """
    UPDATE api_keys SET last_used_at = now()
    WHERE key_id = $1 AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute')"""


async def authenticate(database: Database, authorization: str | None) -> Key:
    """The key of an `Authorization: Bearer <key>` header; raises Unauthorized."""
    row = await database.fetchrow(_FIND, hash_secret(bearer_of(authorization)))
    if row is None:
        raise Unauthorized("this API key is unknown or revoked")
    if row["expired"]:
        raise Unauthorized(
            f"this API key expired at {row['expires_at']:%Y-%m-%dT%H:%M:%SZ}; ask an operator for another"
        )
    if row["unnoted"]:
        _note_use(database, row["key_id"])
    return Key(
        row["key_id"],
        row["name"],
        row["role"],
        row["principal"],
        row["all"],
        tuple(row["shares"]),
        row["labels"],
        tuple(row["pools"]),
        row["priority_max"],
    )


def bearer_of(authorization: str | None) -> str:
    """The secret of an `Authorization: Bearer <secret>` header; raises Unauthorized."""
    scheme, _, secret = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not secret.strip():
        raise Unauthorized("send your API key as `Authorization: Bearer <key>`")
    return secret.strip()


def require_bearer(authorization: str | None, secret: str) -> None:
    """Raises Unauthorized unless the header carries this secret, which is a setting and not a key of the API."""
    if not hmac.compare_digest(bearer_of(authorization).encode(), secret.encode()):
        raise Unauthorized("this key is not the one that the setting names")


_noting: dict[UUID, asyncio.Task[None]] = {}


def _note_use(database: Database, key_id: UUID) -> None:
    """Beside the request, which neither waits for it nor fails with it."""
    if key_id in _noting:
        return

    async def note() -> None:
        try:
            await database.execute(_NOTE_USE, key_id)
        except Exception as error:
            log.info("a key's use was not noted", error=repr(error))
        finally:
            del _noting[key_id]

    _noting[key_id] = asyncio.create_task(note())


_BOOTSTRAP = """
    WITH made AS (
        INSERT INTO api_keys (key_id, name, role, key_hash)
        SELECT $1, 'bootstrap', 'operator', $2 WHERE NOT EXISTS (SELECT FROM api_keys)
        ON CONFLICT DO NOTHING RETURNING key_id
    )
    INSERT INTO audit_log (audit_id, principal, role, action, outcome, subject_kind, subject)
    SELECT $1, 'bootstrap', 'operator', 'register_bootstrap_key', 'done', 'API key', key_id::text FROM made"""


async def has_keys(connection: Connection | Database) -> bool:
    """Whether there ever was a key: no first one is needed then."""
    found: bool = await connection.fetchval("SELECT EXISTS (SELECT FROM api_keys)")
    return found


async def register_bootstrap_key(connection: Connection | Database, secret: str) -> bool:
    """Make `secret` an operator's key if there is no key at all yet; True if it was made."""
    return await connection.execute(_BOOTSTRAP, new_id(), hash_secret(secret)) == "INSERT 0 1"

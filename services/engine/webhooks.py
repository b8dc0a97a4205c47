"""Endpoints of webhooks: the secrets that sign (https://www.standardwebhooks.com), derived when needed and not stored;
and the end of an endpoint that takes no more."""

import base64
import hashlib
import hmac
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import structlog
from asyncpg import Record

from services.engine import audit
from services.engine.errors import Conflict
from services.platform.database import Connection

log = structlog.get_logger()

_SALT = b"piecework webhooks"


class NoSecret(Exception):
    """The endpoint's secret can't be derived: PIECEWORK_SECRET_KEY is not set, or not the one that made it."""


def derive_secret(key: str, endpoint_id: UUID, generation: int) -> str:
    """An endpoint's secret: 32 bytes by HKDF with SHA-256 (RFC 5869), written as Standard Webhooks does."""
    extracted = hmac.digest(_SALT, key.encode(), "sha256")
    expanded = hmac.digest(extracted, f"{endpoint_id} {generation}".encode() + b"\x01", "sha256")
    return f"whsec_{base64.b64encode(expanded).decode()}"


def digest_of(secret: str) -> str:
    """What is stored of a secret, to tell that it is derived by the same key."""
    return hashlib.sha256(secret.encode()).hexdigest()


def require_key(key: str | None) -> str:
    """Raises Conflict if there is no key to derive secrets from."""
    if key is None:
        raise Conflict(
            "webhook secrets are made with a key: set PIECEWORK_SECRET_KEY, random text of at least 32 characters, for "
            "the API and the schedulers"
        )
    return key


def signing_secrets(endpoint: Mapping[str, Any], key: str | None) -> list[str]:
    """The secrets that sign now: the newest and, for a time after a rotation (`overlapping`), the one before.

    One of generation 0 was made by a release that stored it. Raises NoSecret.
    """
    generation: int = endpoint["generation"]
    if generation == 0:
        return [endpoint["secret"]]
    if key is None:
        raise NoSecret("PIECEWORK_SECRET_KEY is not set for this scheduler: set it to what the API has")
    newest = derive_secret(key, endpoint["endpoint_id"], generation)
    if digest_of(newest) != endpoint["secret_digest"]:
        raise NoSecret("PIECEWORK_SECRET_KEY is not what made this endpoint's secret: set it as it was, or rotate")
    if not endpoint["overlapping"]:
        return [newest]
    before = endpoint["secret"] if generation == 1 else derive_secret(key, endpoint["endpoint_id"], generation - 1)
    return [newest, before] if before else [newest]


_DISABLE = """
    UPDATE webhook_endpoints SET enabled = false, disabled_at = now(), disabled_reason = $2
    WHERE endpoint_id = $1 AND enabled RETURNING created_by"""

_ENABLE = """
    UPDATE webhook_endpoints SET enabled = true, disabled_at = NULL, disabled_reason = NULL, failures = 0,
        failing_since = NULL, pauses = 0, paused_until = NULL, last_error = NULL
    WHERE endpoint_id = $1 RETURNING *"""


async def disable(connection: Connection, endpoint_id: UUID, reason: str) -> None:
    """Send nothing more to the endpoint; what waits for it fails, with the reason. The scheduler says so in the log."""
    endpoint = await connection.fetchrow(_DISABLE, endpoint_id, reason)
    if endpoint is not None:
        actor = audit.Actor("scheduler", endpoint["created_by"])
        summary = {"reason": reason}
        await audit.record(connection, actor, "disable_webhook_endpoint", "webhook endpoint", endpoint_id, summary)
        log.warning("webhook endpoint disabled", endpoint=str(endpoint_id), reason=reason)


async def enable(connection: Connection, endpoint_id: UUID) -> Record | None:
    """Send to the endpoint again, at once: its failures are forgiven. None if there is no such endpoint."""
    return await connection.fetchrow(_ENABLE, endpoint_id)
